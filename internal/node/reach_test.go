package node

import (
	"testing"

	"cuttle/obfs"
	"cuttle/relay/wire"
	"cuttle/tun/hostnet"
)

func TestDeviceBytes(t *testing.T) {
	const text = `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:  100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0
cuttle0:12345678901    20    0    0    0     0          0         0      777      12    0    0    0     0       0          0
cuttle01:      5       1    0    0    0     0          0         0        6       1    0    0    0     0       0          0
broken: x
`
	for _, c := range []struct {
		device        string
		received, out uint64
	}{{"cuttle0", 12345678901, 777}, {"cuttle01", 5, 6}, {"lo", 100, 100}, {"none", 0, 0}, {"broken", 0, 0}} {
		if r, s := deviceBytes(text, c.device); r != c.received || s != c.out {
			t.Errorf("%s: got %d, %d; want %d, %d", c.device, r, s, c.received, c.out)
		}
	}
}

// TestAllowedBesideTunnel wants what an operator lets through not to be taken for a
// leak.
func TestAllowedBesideTunnel(t *testing.T) {
	h := testHold(t)
	known := map[wire.NodeID]obfs.Descriptor{{1}: {Addresses: []string{"203.0.113.5:443"}}}
	n := &Node{cfg: h.cfg, links: &neighborhood{known: known}, client: &client{hold: h}}
	for _, test := range []struct {
		let  hostnet.Filter
		want bool
	}{
		{hostnet.Filter{}, false}, {hostnet.Filter{Past: 1}, true}, {hostnet.Filter{LAN: make([]hostnet.Attached, 1)}, true}, {hostnet.Filter{Router: &hostnet.Router{}}, true},
	} {
		h.let = test.let
		if a := n.Allowed(); a.Any != test.want || len(a.Peers) != 1 {
			t.Errorf("with %+v let through frames to others are excused: %v, want %v", test.let, a.Any, test.want)
		}
	}
}
