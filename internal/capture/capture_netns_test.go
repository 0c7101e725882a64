//go:build linux && netns

package capture

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"

	"cuttle/internal/lab/netns"
)

// TestCaptureSeesEveryFrameBothWays joins two namespaces and talks between them.
func TestCaptureSeesEveryFrameBothWays(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("the namespace tests need root")
	}
	ends := make([]netns.End, 2)
	for i := range ends {
		name := fmt.Sprintf("cuttlecapture-%d-%d", os.Getpid(), i)
		if err := netns.Create(name); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := netns.Delete(name); err != nil {
				t.Error(err)
			}
		})
		ends[i] = netns.End{Namespace: name, Interface: "phys0", Addresses: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.77.1.%d/24", i+1))}}
	}
	if err := netns.Connect(ends[0], ends[1]); err != nil {
		t.Fatal(err)
	}
	peer := netip.MustParseAddrPort("10.77.1.2:4000")
	strict := newScanner(t, []netip.AddrPort{peer}, "the request", "the answer", "nothing of this")
	blind := newScanner(t, []netip.AddrPort{netip.AddrPortFrom(peer.Addr(), 1)})
	var captures []*Capture
	for _, s := range []*Scanner{strict, blind} {
		c, err := start(ends[0].Namespace, "phys0", s)
		if err != nil {
			t.Fatal(err)
		}
		captures = append(captures, c)
	}
	talk(t, ends[0].Namespace, ends[1].Namespace, peer)
	var reports []Report
	for _, c := range captures {
		r, err := c.Stop()
		if err != nil {
			t.Fatal(err)
		}
		reports = append(reports, r)
	}
	if r := reports[0]; r.Found["the request"] == 0 || r.Found["the answer"] == 0 || len(r.Found) != 2 || r.Foreign != 0 || r.Allowed < 6 || r.Neighbor < 2 {
		t.Errorf("the capture saw %+v, want both texts and only frames of the peer", r)
	}
	if r := reports[1]; r.Foreign != reports[0].Allowed || r.Clean() {
		t.Errorf("a capture for another peer saw %+v, want all of those frames as foreign", r)
	}
	if _, err := start(ends[0].Namespace, "phys9", strict); err == nil {
		t.Error("an interface that is not there is captured")
	}
}

func start(namespace, iface string, s *Scanner) (c *Capture, err error) {
	err = netns.Do(namespace, func() (err error) { c, err = Start(iface, s); return err })
	return c, err
}

// talk sends a request from one namespace and an answer from the other.
func talk(t *testing.T, from, to string, at netip.AddrPort) {
	t.Helper()
	var ln net.Listener
	if err := netns.Do(to, func() (err error) { ln, err = net.Listen("tcp", at.String()); return err }); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	c, err := netns.Dial(t.Context(), from, "tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	s, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	for _, way := range []struct {
		from, to net.Conn
		text     string
	}{{c, s, "this is the request"}, {s, c, "this is the answer"}} {
		if _, err := io.WriteString(way.from, way.text); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(way.to, make([]byte, len(way.text))); err != nil {
			t.Fatal(err)
		}
	}
}
