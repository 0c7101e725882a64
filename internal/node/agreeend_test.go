package node

import (
	"context"
	"io"
	"testing"
	"time"

	"cuttle/billing"
)

// TestStopAgrees: a node that is told to stop has its neighbors agree on what was
// carried since the last marker, so nothing that was served is lost, and it starts
// again without a dispute.
func TestStopAgrees(t *testing.T) {
	address := endless(t)
	nw := newNetwork(t, "plain")
	nw.bill(nil)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	guard, client := nw.nodes["r1"], nw.nodes["c"].id.ID
	// cells are what the guard has counted with the client, and what is agreed.
	cells := func() (counted, agreed uint64, r billing.NeighborReport) {
		t.Helper()
		all, err := guard.book.Report(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range all.Neighbors {
			if n.Node != client {
				continue
			}
			r = n
			for _, c := range n.Counts {
				counted += uint64(c.OursSent + c.OursReceived)
				agreed += uint64(c.AgreedSent + c.AgreedReceived)
			}
		}
		return counted, agreed, r
	}
	carry := func() {
		t.Helper()
		conn, err := nw.pool().DialTCP(ctx, flowTo(address))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(io.Discard, conn, 3<<19); err != nil { // one marker, and a half
			t.Fatal(err)
		}
	}
	var counted, agreed uint64
	for range 5 { // on a slow machine the neighbor may answer too late
		carry()
		if counted, _, _ = cells(); counted == 0 {
			t.Fatal("the guard has counted nothing")
		}
		nw.stop["c"]()
		eventually(t, "the link is down", func() bool {
			_, _, r := cells()
			return !r.Connected
		})
		_, agreed, _ = cells()
		nw.start("c")
		eventually(t, "the client is back", func() bool {
			_, _, r := cells()
			return r.Connected
		})
		_, again, r := cells()
		if r.Dispute != "" || again < agreed {
			t.Fatalf("back again %d of %d cells are agreed, dispute %q", again, agreed, r.Dispute)
		}
		if agreed >= counted {
			return
		}
	}
	t.Errorf("%d of %d cells that the guard had served are agreed after the client has stopped", agreed, counted)
}
