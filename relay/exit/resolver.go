package exit

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// The ways to ask a resolver.
const (
	overUDP   = "udp"   // RFC 1035, and TCP for what is cut off (RFC 7766)
	overTLS   = "tls"   // RFC 7858
	overHTTPS = "https" // RFC 8484
)

// Resolver is where an exit asks for names: ParseResolver reads it.
type Resolver struct {
	way  string
	addr netip.AddrPort
	name string // in the certificate; empty: the address is
	url  string // of DNS over HTTPS
}

// ParseResolver reads
//
//	9.9.9.9, 9.9.9.9:53, [2620:fe::fe]:53
//	tls://9.9.9.9#dns.quad9.net, tls://9.9.9.9:853
//	https://9.9.9.9/dns-query, https://dns.quad9.net/dns-query#9.9.9.9
//
// A resolver's own name is not looked up: its address is part of the text.
func ParseResolver(text string) (Resolver, error) {
	bad := func(format string, args ...any) (Resolver, error) {
		return Resolver{}, fmt.Errorf("resolver %q: %s", text, fmt.Sprintf(format, args...))
	}
	scheme, rest, ok := strings.Cut(text, "://")
	if !ok {
		a, err := addrPort(text, 53)
		if err != nil {
			return bad("%v; write an address such as 9.9.9.9, tls://9.9.9.9#dns.quad9.net or https://9.9.9.9/dns-query", err)
		}
		return Resolver{way: overUDP, addr: a}, nil
	}
	switch scheme {
	case overTLS:
		where, name, _ := strings.Cut(rest, "#")
		a, err := addrPort(where, 853)
		if err == nil {
			err = certificateName(name)
		}
		if err != nil {
			return bad("%v; write for example tls://9.9.9.9#dns.quad9.net", err)
		}
		return Resolver{way: overTLS, addr: a, name: name}, nil
	case overHTTPS:
		r, err := parseHTTPS(text)
		if err != nil {
			return bad("%v; write for example https://9.9.9.9/dns-query or https://dns.quad9.net/dns-query#9.9.9.9", err)
		}
		return r, nil
	}
	return bad("%s is not tls or https", scheme)
}

func parseHTTPS(text string) (Resolver, error) {
	u, err := url.Parse(text)
	if err != nil || u.User != nil || u.Hostname() == "" || u.RawQuery != "" {
		return Resolver{}, errors.New("not the URL of a resolver")
	}
	port := uint64(443)
	if u.Port() != "" {
		if port, err = strconv.ParseUint(u.Port(), 10, 16); err != nil || port == 0 {
			return Resolver{}, errors.New("port is not one from 1 to 65535")
		}
	}
	where, name := u.Hostname(), ""
	if _, err := netip.ParseAddr(where); err != nil {
		name = where
		if where = u.Fragment; where == "" {
			return Resolver{}, errors.New("its address is missing, and names cannot be looked up before there is a resolver")
		}
	} else if u.Fragment != "" {
		return Resolver{}, errors.New("it has two addresses")
	}
	addr, err := netip.ParseAddr(where)
	if err != nil || addr.Zone() != "" {
		return Resolver{}, fmt.Errorf("%q is not an address", where)
	}
	if err := certificateName(name); err != nil {
		return Resolver{}, err
	}
	u.Fragment = ""
	return Resolver{way: overHTTPS, addr: netip.AddrPortFrom(addr.Unmap(), uint16(port)), name: name, url: u.String()}, nil
}

// addrPort reads an address with or without a port.
func addrPort(s string, port uint16) (netip.AddrPort, error) {
	if a, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]")); err == nil && a.Zone() == "" {
		return netip.AddrPortFrom(a.Unmap(), port), nil
	}
	a, err := netip.ParseAddrPort(s)
	if err != nil || a.Port() == 0 || a.Addr().Zone() != "" {
		return netip.AddrPort{}, fmt.Errorf("%q is not an address", s)
	}
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()), nil
}

// certificateName tells whether a name can stand in a certificate.
func certificateName(name string) error {
	if name == "" {
		return nil
	}
	if len(name) > 253 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-") != "" || net.ParseIP(name) != nil {
		return fmt.Errorf("%q is not a host's name", name)
	}
	return nil
}

// String writes the resolver so that ParseResolver reads it.
func (r Resolver) String() string {
	name := ""
	if r.name != "" {
		name = "#" + r.name
	}
	switch r.way {
	case overTLS:
		return "tls://" + r.addr.String() + name
	case overHTTPS:
		if r.name != "" {
			name = "#" + r.addr.Addr().String()
		}
		return r.url + name
	}
	return r.addr.String()
}
