package node

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"cuttle/obfs"
	"cuttle/obfs/plain"
	"cuttle/relay/link"
	"cuttle/relay/netmap"
	"cuttle/relay/wire"
)

// nobody takes no circuits.
type nobody struct{}

func (nobody) Create(ln *link.Lane, _ []byte) { ln.Refuse(wire.ReasonNotServed) }

func testNode(t *testing.T, name string) (*Identity, *netmap.Record) {
	t.Helper()
	id, err := LoadIdentity(filepath.Join(t.TempDir(), name))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	rec, err := netmap.Sign(id.Sign, netmap.Record{KEM: id.Handshake.Public(), Sequence: 1, From: now.Unix() - 1, Until: now.Unix() + 1000})
	if err != nil {
		t.Fatal(err)
	}
	return id, rec
}

// TestSlowStrangersKeepNobodyOut: connections that say nothing take no place from
// a neighbor that comes after them.
func TestSlowStrangersKeepNobodyOut(t *testing.T) {
	server, _ := testNode(t, "server")
	dialer, rec := testNode(t, "dialer")
	known := map[wire.NodeID]obfs.Descriptor{dialer.ID: {Node: dialer.ID}}
	nb := &neighborhood{
		cfg: link.Config{ID: server.ID, Key: server.Handshake, Check: func(record []byte) (link.Peer, error) {
			return checkNeighbor(known, false, record)
		}},
		known: known, log: slog.New(slog.DiscardHandler), cameUp: func() {},
		live: make(map[wire.NodeID]liveLink), fail: make(map[wire.NodeID]string),
	}
	raw, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln, err := plain.Mask{}.Listen(raw, obfs.Options{Node: server.ID})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { nb.accept(ctx, ln, "plain", nobody{}) }) // ends when the listener closes
	defer wg.Wait()
	defer func() { _ = ln.Close() }()
	defer cancel()
	for range maxHandshakes {
		c, err := net.Dial("tcp", raw.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	conn, err := net.Dial("tcp", raw.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	l, err := link.Dial(ctx, conn, link.Config{ID: dialer.ID, Key: dialer.Handshake, Record: rec.Bytes()},
		link.Peer{ID: server.ID, KEM: server.Handshake.Public()})
	if err != nil {
		t.Fatalf("a neighbor beside %d silent strangers: %v", maxHandshakes, err)
	}
	cancel()
	l.Close()
	_ = l.Run(ctx, nobody{})
}

// TestStrangersAreNoNews: a client looks for circuits anew when a neighbor's link comes
// up, and not when a stranger's does, who may come again and again.
func TestStrangersAreNoNews(t *testing.T) {
	server, _ := testNode(t, "server")
	dialer, rec := testNode(t, "dialer")
	for _, listed := range []bool{false, true} {
		known := map[wire.NodeID]obfs.Descriptor{}
		if listed {
			known[dialer.ID] = obfs.Descriptor{Node: dialer.ID}
		}
		news := 0
		nb := &neighborhood{
			cfg: link.Config{ID: server.ID, Key: server.Handshake, Check: func(record []byte) (link.Peer, error) {
				return checkNeighbor(known, true, record)
			}},
			known: known, log: slog.New(slog.DiscardHandler), cameUp: func() { news++ },
			live: make(map[wire.NodeID]liveLink), fail: make(map[wire.NodeID]string),
		}
		near, far := net.Pipe()
		accepted := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() { // ends with the link
			l, err := link.Accept(t.Context(), near, nb.cfg)
			close(accepted)
			if err != nil {
				t.Error(err)
				return
			}
			nb.serve(t.Context(), l, "plain", false, nobody{})
		})
		l, err := link.Dial(t.Context(), far, link.Config{ID: dialer.ID, Key: dialer.Handshake, Record: rec.Bytes()},
			link.Peer{ID: server.ID, KEM: server.Handshake.Public()})
		if err != nil {
			t.Fatal(err)
		}
		<-accepted
		l.Close()
		_ = l.Run(t.Context(), nobody{})
		wg.Wait()
		if (news == 1) != listed || news > 1 {
			t.Errorf("a neighbor that is listed %v was news %d times", listed, news)
		}
	}
}

// TestOwnNetworks: this machine's addresses come with the networks that they are in.
func TestOwnNetworks(t *testing.T) {
	if got := ownNetworks(); !slices.Contains(got, netip.MustParsePrefix("127.0.0.1/8")) {
		t.Errorf("loopback is not among %v", got)
	}
}

// TestStrangersAreBounded: identities cost nothing, links of nodes that nobody
// listed must not cost more.
func TestStrangersAreBounded(t *testing.T) {
	friend := wire.NodeID{0xff}
	nb := &neighborhood{known: map[wire.NodeID]obfs.Descriptor{friend: {}}, live: map[wire.NodeID]liveLink{friend: {}}}
	for i := range maxClients {
		if id := (wire.NodeID{1, byte(i >> 8), byte(i)}); nb.full(id) {
			t.Fatalf("full after %d clients, want %d", i, maxClients)
		} else {
			nb.live[id] = liveLink{}
		}
	}
	for what, want := range map[wire.NodeID]bool{{2}: true, {1, 0, 0}: false, friend: false} {
		if got := nb.full(what); got != want {
			t.Errorf("full for %v...: %v, want %v", what[:3], got, want)
		}
	}
}

// TestClientsAreNotExtendedTo: who asks a relay to extend to a node learns whether
// that node has a link to the relay, and has the relay pay it. Clients, listed as
// neighbors or not, are to be found by nobody.
func TestClientsAreNotExtendedTo(t *testing.T) {
	relayID, relayRec := testNode(t, "relay")
	friend, stranger := wire.NodeID{1}, wire.NodeID{2}
	m, err := netmap.ParseMap(netmap.AppendLine(nil, relayRec))
	if err != nil {
		t.Fatal(err)
	}
	nb := &neighborhood{
		mapped: m, known: map[wire.NodeID]obfs.Descriptor{friend: {}, relayID.ID: {}},
		live: map[wire.NodeID]liveLink{friend: {link: &link.Link{}}, stranger: {link: &link.Link{}}, relayID.ID: {link: &link.Link{}}},
	}
	var found []wire.NodeID
	for id := range nb.live {
		if nb.onward(id) != nil {
			found = append(found, id)
		}
	}
	if !slices.Equal(found, []wire.NodeID{relayID.ID}) {
		t.Errorf("circuits are extended to %d nodes, want the relay alone", len(found))
	}
}
