package node

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"

	"golang.org/x/net/dns/dnsmessage"

	"cuttle/stack"
)

var errNoAddress = errors.New("name has no address")

// lookup resolves a host name through the exit (RFC 1035 section 4), IPv4
// first. An address in text form is returned as it is.
func (o *onward) lookup(ctx context.Context, host string) (netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return a, nil
	}
	failed := errNoAddress
	for _, t := range []dnsmessage.Type{dnsmessage.TypeA, dnsmessage.TypeAAAA} {
		a, err := o.ask(ctx, host, t)
		if err == nil {
			return a, nil
		}
		failed = err
	}
	return netip.Addr{}, failed
}

func (o *onward) ask(ctx context.Context, host string, t dnsmessage.Type) (netip.Addr, error) {
	name, err := dnsmessage.NewName(strings.TrimSuffix(host, ".") + ".")
	if err != nil {
		return netip.Addr{}, errors.New("bad host name")
	}
	query := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: uint16(rand.Uint32()), RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: name, Type: t, Class: dnsmessage.ClassINET}},
	}
	packed, err := query.Pack()
	if err != nil {
		return netip.Addr{}, fmt.Errorf("build query: %w", err)
	}
	answer, err := o.Resolve(ctx, stack.Flow{}, packed)
	if err != nil {
		return netip.Addr{}, err
	}
	var m dnsmessage.Message
	if err := m.Unpack(answer); err != nil || m.ID != query.ID || !m.Response {
		return netip.Addr{}, errors.New("bad answer of the exit's resolver")
	}
	for _, r := range m.Answers {
		switch b := r.Body.(type) {
		case *dnsmessage.AResource:
			return netip.AddrFrom4(b.A), nil
		case *dnsmessage.AAAAResource:
			return netip.AddrFrom16(b.AAAA), nil
		}
	}
	return netip.Addr{}, errNoAddress
}
