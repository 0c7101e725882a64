package node

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"
)

// TestFullConeThroughTheNetwork: peers beyond three hops see one address of a
// program's socket, and one that was never asked reaches it.
func TestFullConeThroughTheNetwork(t *testing.T) {
	o := newNetwork(t, "plain").pool()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var peers []*net.UDPConn
	at := make(map[*net.UDPConn]netip.AddrPort)
	for range 3 {
		p, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		_ = p.SetDeadline(time.Now().Add(time.Minute))
		peers, at[p] = append(peers, p), netip.MustParseAddrPort(p.LocalAddr().String())
	}
	conn, err := o.DialUDP(ctx, flowTo(at[peers[0]].String()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	f := conn.(*flow)
	b := make([]byte, 4096)
	var seen []netip.AddrPort
	for _, p := range peers[:2] {
		if err := f.Send([]byte("hello"), at[p]); err != nil {
			t.Fatal(err)
		}
		_, from, err := p.ReadFromUDPAddrPort(b)
		if err != nil {
			t.Fatal(err)
		}
		seen = append(seen, from)
	}
	if seen[0] != seen[1] {
		t.Errorf("two peers see %v and %v, want one address", seen[0], seen[1])
	}
	for _, p := range peers {
		want := fmt.Sprintf("%3000d", at[p].Port()) // in fragments
		if _, err := p.WriteToUDPAddrPort([]byte(want), seen[0]); err != nil {
			t.Fatal(err)
		}
		n, from, err := f.Receive(b)
		if err != nil || from != at[p] || string(b[:n]) != want {
			t.Errorf("from %v: got %d bytes from %v, %v; want %d", at[p], n, from, err, len(want))
		}
	}
}
