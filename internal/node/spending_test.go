package node

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cuttle/billing"
	"cuttle/internal/config"
	"cuttle/internal/control"
	"cuttle/relay/circuit"
	"cuttle/relay/wire"
	"cuttle/stack"
)

// bill restarts every node of a network with billing by account.
func (nw *network) bill(change func(name string, b *config.Billing)) {
	nw.t.Helper()
	for _, name := range nw.names {
		nw.stop[name]()
	}
	for _, name := range nw.names {
		b := &nw.cfgs[name].Billing
		b.Mode, b.Scan, b.CreditStart, b.Credit = "account", config.Duration(100*time.Millisecond), "1", "1"
		b.CreditStrangers = "10"
		if change != nil {
			change(name, b)
		}
		nw.start(name)
	}
}

// spend runs the client's limits.
func (nw *network) spend() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- nw.nodes["c"].client.spend(ctx) }()
	nw.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			nw.t.Error(err)
		}
	})
}

// endless is a server that sends for as long as it is listened to.
func endless(t *testing.T) (address string) {
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for buf := make([]byte, 64<<10); ; {
			if _, err := w.Write(buf); err != nil {
				return
			}
		}
	}))
	t.Cleanup(web.Close)
	return strings.TrimPrefix(web.URL, "http://")
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func says(all []control.Problem, text string) bool {
	for _, p := range all {
		if strings.Contains(p.Text, text) && p.Hint != "" {
			return true
		}
	}
	return false
}

// TestSpendingLimit: at a day's limit the flows end and new ones are refused, the
// user is told why and what to do, debts are paid and our own calls carried; the
// next day, and not after a restart, there is room again.
func TestSpendingLimit(t *testing.T) {
	for _, tt := range []struct {
		name, problem string
		change        func(*config.Billing)
	}{
		{"a day", "today's spending limit is reached", func(b *config.Billing) { b.SpendPerDay = "0.000005" }},
		{"a neighbor", "spending limit for neighbor", func(b *config.Billing) { b.SpendPerNeighbor = "0.000005" }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			address := endless(t)
			nw := newNetwork(t, "plain")
			for _, name := range nw.names {
				nw.cfgs[name].Exit.Price = 1
			}
			nw.bill(func(name string, b *config.Billing) {
				if name == "c" {
					tt.change(b)
				}
			})
			var days atomic.Int64 // that have passed
			today := time.Now()   // all through the test, also at midnight
			nw.nodes["c"].client.limits.now = func() time.Time { return today.AddDate(0, 0, int(days.Load())) }
			o := nw.pool()
			nw.spend()
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			conn, err := o.DialTCP(ctx, flowTo(address))
			if err != nil {
				t.Fatalf("%v\n%s", err, nw.logs)
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			n, err := io.Copy(io.Discard, struct{ io.Reader }{conn})
			if n < 1<<20 || err == nil {
				t.Errorf("the flow ended after %d bytes with %v; want some megabytes and then an error", n, err)
			}
			if _, err := o.DialTCP(ctx, flowTo(address)); !errors.Is(err, stack.ErrProhibited) {
				t.Errorf("a new flow: %v, want that it is prohibited", err)
			}
			if _, err := o.Resolve(ctx, flowTo("1.1.1.1:53"), []byte{0}); !errors.Is(err, stack.ErrProhibited) {
				t.Errorf("a name: %v, want that it is prohibited", err)
			}
			client := nw.nodes["c"]
			if st := client.Status(); !says(st.Problems, tt.problem) {
				t.Errorf("status shows %+v, want %q with a hint", st.Problems, tt.problem)
			}
			own, err := o.DialContext(ctx, "tcp", address)
			if err != nil {
				t.Errorf("a call of our own, as to the chain: %v", err)
			} else if err := own.Close(); err != nil {
				t.Error(err)
			}
			eventually(t, "the debt is paid", func() bool {
				_ = client.Pay(ctx)
				l := client.Ledger()
				return len(l.Accounts) == 1 && l.Accounts[0].Owed == "0" && l.Accounts[0].Spent != "0"
			})
			limits := client.client.limits
			if err := limits.save(ctx); err != nil {
				t.Fatal(err)
			}
			again, err := newSpending(nw.cfgs["c"], client.book, client.log)
			if err != nil || again.reached(client.client.guards()) == nil {
				t.Errorf("after a restart the limit is not reached (%v)", err)
			}
			days.Add(1)
			eventually(t, "the next day flows are allowed", func() bool { return o.allowed() == nil })
			next, err := o.DialTCP(ctx, flowTo(address))
			if err != nil {
				t.Fatalf("the next day: %v; circuits %+v, failure %v\n%s", err, client.Circuits(), o.pool.Load().Failure(), nw.logs)
			}
			if err := next.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestSpendingElsewhere: when the limit for one neighbor is reached its circuits
// are closed and new ones go over the other.
func TestSpendingElsewhere(t *testing.T) {
	nw := newMesh(t, "plain", []string{"c", "r1", "r2", "x"}, [][2]string{{"c", "r1"}, {"c", "r2"}, {"r1", "x"}, {"r2", "x"}}, "x")
	for _, name := range nw.names {
		nw.cfgs[name].Exit.Price = 1
	}
	nw.cfgs["c"].Client.Hops = 2
	nw.bill(func(name string, b *config.Billing) {
		if name == "c" {
			b.SpendPerNeighbor = "1"
		}
	})
	o := nw.pool()
	nw.spend()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if _, _, err := o.getFor(ctx, circuit.Want{}); err != nil {
		t.Fatal(err)
	}
	c := nw.nodes["c"]
	eventually(t, "both links are up", func() bool { return len(c.client.guards()) == 2 })
	full := nw.nodes["r1"].id.ID
	over := func() bool {
		for _, one := range c.Circuits() {
			if one.Hops[0].Node == full.String() {
				return true
			}
		}
		return false
	}
	eventually(t, "a circuit goes over r1", func() bool {
		if !over() && len(c.Circuits()) >= 3 {
			o.pool.Load().Renew(true)
		}
		return over()
	})
	c.client.limits.mu.Lock()
	c.client.limits.cells[place{full, 1}] = 2 << 30
	c.client.limits.mu.Unlock()
	eventually(t, "there are circuits, and none goes over r1", func() bool {
		return says(c.Status().Problems, "spending limit for neighbor "+full.String()) && len(c.Circuits()) > 0 && !over()
	})
	if err := o.allowed(); err != nil {
		t.Errorf("flows are refused while there is another neighbor: %v", err)
	}
}

// TestSpendingPerGB: the limit per gigabyte bounds the tier, and when no path is
// that cheap the user is told.
func TestSpendingPerGB(t *testing.T) {
	nw := newNetwork(t, "plain")
	c := nw.nodes["c"]
	eventually(t, "the link is up", func() bool { return len(c.client.guards()) == 1 })
	if _, err := c.client.choose(nil); err != nil {
		t.Fatalf("without a limit: %v", err)
	}
	for _, tt := range []struct {
		limit string
		most  billing.Amount
		path  bool
	}{{"0.004", 4_000_000, true}, {"0.0000001", 100, false}} {
		cfg := *nw.cfgs["c"]
		cfg.Billing.Mode, cfg.Billing.SpendPerGB, cfg.Node.State = "account", tt.limit, t.TempDir()
		book, err := openBook(&cfg, wire.NodeID{1}, nil, c.log)
		if err != nil {
			t.Fatal(err)
		}
		s, err := newSpending(&cfg, book, c.log)
		if err != nil {
			t.Fatal(err)
		}
		if got := billing.Owed(gigabyte, s.maxTier); got > tt.most || billing.Owed(gigabyte, s.maxTier+1) <= tt.most {
			t.Errorf("%s tokens for a gigabyte gives tier %d, which costs %v", tt.limit, s.maxTier, got)
		}
		c.client.limits = s
		_, err = c.client.choose(nil)
		if (err == nil) != tt.path || !tt.path && !says(s.problems(nil, err), "spend_per_gb") {
			t.Errorf("%s tokens for a gigabyte: path found %v, want %v; problems %+v", tt.limit, err == nil, tt.path, s.problems(nil, err))
		}
		if err := book.Close(); err != nil {
			t.Error(err)
		}
	}
}
