package node

import (
	"context"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cuttle/internal/config"
	"cuttle/internal/control"
)

// TestCutAndRestored: a client that does not pay is slowed and cut by its guard;
// both sides say so and what restores it; an operator can let it in again, and
// paying the one neighbor ends it.
func TestCutAndRestored(t *testing.T) {
	address := endless(t)
	nw := newNetwork(t, "plain")
	nw.bill(func(name string, b *config.Billing) {
		if name == "c" { // never by itself
			b.Scan, b.SettleAbove, b.SettleAfter = config.Duration(100*time.Hour), "1000", config.Duration(1000*time.Hour)
		}
		if name == "r1" {
			b.Credit, b.CreditStart, b.Throttle = "0.00004", "0.00004", 1_000_000
		}
	})
	o := nw.pool()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	client, guard := nw.nodes["c"], nw.nodes["r1"]
	carry := func() {
		t.Helper()
		conn, err := o.DialTCP(ctx, flowTo(address))
		if err != nil {
			t.Logf("dial: %v", err)
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n")
		_, _ = io.CopyN(io.Discard, struct{ io.Reader }{conn}, 4<<20)
	}
	account := func(n *Node, with string) control.Account {
		t.Helper()
		for _, a := range n.Ledger().Accounts {
			if a.Node == with {
				return a
			}
		}
		return control.Account{}
	}
	at := func(n *Node) string { return n.id.ID.String() }
	eventually(t, "the guard has cut the client", func() bool {
		if s := account(guard, at(client)).State; s == "cut" {
			return true
		}
		carry()
		return false
	})
	if a := account(client, at(guard)); a.TheirState != "cut" && a.TheirState != "throttled" || a.TheirReason == "" || a.TheirRestore == "0" {
		t.Errorf("the client is told %q, %q, limit %s, restored by %s", a.TheirState, a.TheirReason, a.TheirLimit, a.TheirRestore)
	}
	eventually(t, "the client's status says what to do", func() bool {
		for _, p := range client.Status().Problems {
			if strings.Contains(p.Text, at(guard)) && strings.Contains(p.Hint, "cuttle pay ") {
				return true
			}
		}
		return false
	})
	d, err := control.Dial(filepath.Join(nw.dir, "r1", "c.sock"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Unban(ctx, "nobody"); err == nil || control.Hint(err) == "" {
		t.Errorf("unban of nobody: %v", err)
	}
	if _, err := d.Unban(ctx, at(client)[:8]); err != nil {
		t.Fatal(err)
	}
	if a := account(guard, at(client)); a.State != "active" || a.Due == "0" {
		t.Errorf("after unban: %s, owes %s; want active, and still owing", a.State, a.Due)
	}
	if d, err = control.Dial(filepath.Join(nw.dir, "c", "c.sock")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the debt to the one neighbor is paid", func() bool {
		if _, err := d.PayNeighbor(ctx, strings.ToUpper(at(guard)[:12])); err != nil {
			t.Logf("pay: %v", err)
		}
		return account(guard, at(client)).Due == "0" && account(client, at(guard)).Owed == "0"
	})
}
