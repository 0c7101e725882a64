package node

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"cuttle/billing"
	"cuttle/relay/wire"
)

// TestNetworkSumsToZero runs traffic over a client and three relays that settle
// by account, pays, and adds up the ledger files of all: what one spent another
// has earned, nothing is owed or on its way, and each file verifies.
func TestNetworkSumsToZero(t *testing.T) {
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) }))
	defer web.Close()
	nw := newNetwork(t, "plain")
	for _, name := range nw.names {
		nw.stop[name]()
		nw.cfgs[name].Billing.Mode = "account"
	}
	for _, name := range nw.names {
		nw.start(name)
	}
	o := nw.pool()
	tr := &http.Transport{DialContext: o.DialContext}
	defer tr.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	body := make([]byte, 4<<20)
	_, _ = rand.Read(body)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, web.URL, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		t.Fatalf("%v\n%s", err, nw.logs)
	}
	got, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || !bytes.Equal(got, body) {
		t.Fatalf("%d bytes came back of %d, %v", len(got), len(body), err)
	}
	tr.CloseIdleConnections()

	for done := false; !done; {
		for _, name := range nw.names {
			if err := nw.nodes[name].Pay(ctx); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		done = true
		for _, name := range nw.names {
			l := nw.nodes[name].Ledger()
			done = done && l.TotalOwed == "0" && l.TotalDue == "0"
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("debts are not paid: %+v", nw.nodes["r1"].Ledger())
		}
	}
	files := map[string][]billing.Position{}
	for _, name := range nw.names {
		path := filepath.Join(nw.dir, name, "ledger.db")
		f, err := billing.OpenFile(path) // beside the running node
		if err != nil {
			t.Fatal(err)
		}
		v, err := f.Verify(ctx)
		if err != nil || len(v.Findings) > 0 || v.Entries == 0 {
			t.Errorf("%s: %+v, %v", name, v, err)
		}
		if files[name], err = f.Positions(ctx); err != nil {
			t.Fatal(err)
		}
		sum := int64(0)
		if err := f.History(ctx, wire.NodeID{}, func(m billing.Movement) error { sum += m.Units; return nil }); err != nil || sum != 0 {
			t.Errorf("%s: postings sum to %d, %v", name, sum, err)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
	spent, earned, links := int64(0), int64(0), 0
	for name, all := range files {
		for _, p := range all {
			links++
			spent, earned = spent+p.SpentUnits, earned+p.EarnedUnits
			other := position(t, files, nw, p.Node, nw.nodes[name].id.ID.String())
			if p.OwedUnits != other.DueUnits || p.TransitUnits != 0 || p.SpentUnits != other.EarnedUnits || p.CellsWePay != other.CellsTheyPay {
				t.Errorf("%s says %+v, its neighbor %+v", name, p, other)
			}
		}
	}
	if spent != earned || spent == 0 || links != 6 {
		t.Errorf("over %d ends of links %d was spent and %d earned, want the same and more than zero over 6", links, spent, earned)
	}
}

// position is what the node with an address has written about another.
func position(t *testing.T, files map[string][]billing.Position, nw *network, node, about string) billing.Position {
	t.Helper()
	for name, all := range files {
		if nw.nodes[name].id.ID.String() != node {
			continue
		}
		for _, p := range all {
			if p.Node == about {
				return p
			}
		}
	}
	t.Fatalf("%s has nothing about %s", node, about)
	return billing.Position{}
}
