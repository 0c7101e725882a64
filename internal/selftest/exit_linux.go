package selftest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	exitTime = 10 * time.Second
	maxPage  = 64 << 10 // bytes of a page that are looked at
)

// whoever is asked, the tunnel takes the question and the exit answers it.
var anyServer = netip.MustParseAddrPort("198.51.100.255:53")

// askExit asks under which addresses the exit is seen, as any program on this
// machine would.
func askExit(ctx context.Context) ([]netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, exitTime)
	defer cancel()
	var d net.Dialer
	var out []netip.Addr
	for _, kind := range []dnsmessage.Type{dnsmessage.TypeA, dnsmessage.TypeAAAA} {
		a, err := askOnce(ctx, &d, kind)
		if err != nil {
			return nil, fmt.Errorf("no answer through the tunnel: %w", err)
		}
		if a.IsValid() {
			out = append(out, a)
		}
	}
	return out, nil
}

func askOnce(ctx context.Context, d *net.Dialer, kind dnsmessage.Type) (netip.Addr, error) {
	query := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: uint16(rand.Uint32()), RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName("exit.cuttle."), Type: kind, Class: dnsmessage.ClassINET}},
	}
	packed, err := query.Pack()
	if err != nil {
		return netip.Addr{}, err
	}
	conn, err := d.DialContext(ctx, "udp", anyServer.String())
	if err != nil {
		return netip.Addr{}, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := conn.Write(packed); err != nil {
		return netip.Addr{}, err
	}
	b := make([]byte, 1500)
	n, err := conn.Read(b)
	if err != nil {
		return netip.Addr{}, err
	}
	var m dnsmessage.Message
	if err := m.Unpack(b[:n]); err != nil || m.ID != query.ID || !m.Response || m.RCode != dnsmessage.RCodeSuccess {
		return netip.Addr{}, fmt.Errorf("the answer is not one (%v)", m.RCode)
	}
	for _, r := range m.Answers {
		switch b := r.Body.(type) {
		case *dnsmessage.AResource:
			return netip.AddrFrom4(b.A), nil
		case *dnsmessage.AAAAResource:
			return netip.AddrFrom16(b.AAAA).Unmap(), nil
		}
	}
	return netip.Addr{}, nil
}

var addressLike = regexp.MustCompile(`[0-9a-fA-F:.]{3,45}`)

// askPage finds the first IP address in a page.
func askPage(ctx context.Context, url string) (netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, exitTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return netip.Addr{}, err
	}
	t := &http.Transport{Proxy: nil, DisableKeepAlives: true}
	defer t.CloseIdleConnections()
	resp, err := (&http.Client{Transport: t}).Do(req)
	if err != nil {
		return netip.Addr{}, err
	}
	defer func() { _ = resp.Body.Close() }() // nobody wants the rest
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxPage))
	if err != nil {
		return netip.Addr{}, err
	}
	return firstAddress(string(body))
}

func firstAddress(text string) (netip.Addr, error) {
	for _, word := range addressLike.FindAllString(text, -1) {
		if a, err := netip.ParseAddr(strings.TrimRight(word, ".")); err == nil && !slices.Contains([]string{"::", "::1", "0.0.0.0"}, word) {
			return a.Unmap(), nil
		}
	}
	return netip.Addr{}, errors.New("the page names no IP address")
}
