package exit

import (
	"net/netip"
	"testing"

	"cuttle/relay/wire"
)

// TestEchoPolicy: what the policy refuses is refused before there is a socket.
func TestEchoPolicy(t *testing.T) {
	e := newExit(t, Config{
		Policy: policy(t, "deny ipv6"),
		Self:   func() []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix("8.8.8.8/32")} },
	})
	for dst, want := range map[string]wire.Code{
		"10.0.0.1": wire.CodeForbidden, "127.0.0.1": wire.CodeForbidden, "169.254.169.254": wire.CodeForbidden,
		"224.0.0.1": wire.CodeForbidden, "255.255.255.255": wire.CodeForbidden, "::ffff:10.0.0.1": wire.CodeForbidden,
		"8.8.8.8": wire.CodeForbidden, "2001:4860::1": wire.CodeNetworkUnreachable,
	} {
		_, err := someone(e).OpenEcho(t.Context(), netip.MustParseAddr(dst))
		codeWanted(t, dst, err, want)
	}
	if got := e.Counts(); got.Open != 0 || got.Forbidden != 8 {
		t.Errorf("counts: got %+v, want 8 forbidden and none open", got)
	}
}

// TestIdentifiers: flows to one host have different ones, as many as there are.
func TestIdentifiers(t *testing.T) {
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	s := identifiers{taken: make(map[identifier]struct{})}
	for id := range 1 << 16 {
		if id != 7 && id != 65535 {
			s.taken[identifier{a, uint16(id)}] = struct{}{}
		}
	}
	first, ok1 := s.take(a)
	second, ok2 := s.take(a)
	if !ok1 || !ok2 || min(first, second) != 7 || max(first, second) != 65535 {
		t.Errorf("got %d, %v and %d, %v; want the two that were left", first, ok1, second, ok2)
	}
	if _, ok := s.take(a); ok {
		t.Error("more identifiers than there are")
	}
	if _, ok := s.take(b); !ok {
		t.Error("none for another host")
	}
	s.give(a, 4711)
	if id, ok := s.take(a); !ok || id != 4711 {
		t.Errorf("got %d, %v; want the one that was put back", id, ok)
	}
}
