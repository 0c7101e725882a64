package exit

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"cuttle/relay/wire"
)

// TestOwnAddressesOutliveAFailure: when the machine's addresses cannot be listed
// for once, the exit does not become reachable through itself.
func TestOwnAddressesOutliveAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		list := []netip.Prefix{netip.MustParsePrefix("8.8.8.8/32")}
		e, err := New(Config{
			Policy: policy(t), Resolvers: at(netip.MustParseAddrPort("127.0.0.1:53")),
			Self: func() []netip.Prefix { return list },
		})
		if err != nil {
			t.Fatal(err)
		}
		dst := netip.MustParseAddrPort("8.8.8.8:80")
		codeWanted(t, "own address", e.cfg.Policy.Check(TCP, dst, e.own()), wire.CodeForbidden)
		list = nil
		time.Sleep(2 * selfAge)
		codeWanted(t, "own address after a failure", e.cfg.Policy.Check(TCP, dst, e.own()), wire.CodeForbidden)
	})
}
