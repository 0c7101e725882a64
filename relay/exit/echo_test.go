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
		Self:   func() []netip.Addr { return []netip.Addr{netip.MustParseAddr("8.8.8.8")} },
	})
	for dst, want := range map[string]wire.Code{
		"10.0.0.1": wire.CodeForbidden, "127.0.0.1": wire.CodeForbidden, "169.254.169.254": wire.CodeForbidden,
		"224.0.0.1": wire.CodeForbidden, "255.255.255.255": wire.CodeForbidden, "::ffff:10.0.0.1": wire.CodeForbidden,
		"8.8.8.8": wire.CodeForbidden, "2001:4860::1": wire.CodeNetworkUnreachable,
	} {
		_, err := e.Circuit().OpenEcho(t.Context(), netip.MustParseAddr(dst))
		codeWanted(t, dst, err, want)
	}
	if got := e.Counts(); got.Open != 0 || got.Forbidden != 8 {
		t.Errorf("counts: got %+v, want 8 forbidden and none open", got)
	}
}
