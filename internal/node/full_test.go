package node

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cuttle/internal/control"
)

// TestFullLedger: a relay without space for its ledger takes no circuits that are
// paid for, says so in its status with what to do, and serves again when there is
// space.
func TestFullLedger(t *testing.T) {
	address := endless(t)
	nw := newNetwork(t, "plain")
	reserve := filepath.Join(nw.dir, "r1", "ledger.db.reserve")
	if err := os.Mkdir(reserve, 0o700); err != nil { // where no file can be
		t.Fatal(err)
	}
	nw.bill(nil)
	relay := nw.nodes["r1"]
	found := false
	for _, p := range relay.Status().Problems {
		found = found || strings.Contains(p.Text, "no space for the ledger") && p.Hint != "" && p.Area == control.AreaMoney
	}
	if !found {
		t.Errorf("status of a relay without space: %+v", relay.Status().Problems)
	}
	if l := relay.Ledger(); !says(l.Problems, "no space for the ledger") {
		t.Errorf("ledger of a relay without space: %+v", l.Problems)
	}
	o := nw.pool()
	short, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	conn, err := o.DialTCP(short, flowTo(address))
	cancel()
	if err == nil {
		conn.Close()
		t.Fatal("a flow goes through a relay without space")
	}
	if err := os.Remove(reserve); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the relay serves again", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		conn, err := o.DialTCP(ctx, flowTo(address))
		if err != nil {
			return false
		}
		return conn.Close() == nil
	})
	if got := relay.Status().Problems; len(got) > 0 {
		t.Errorf("status with space: %+v", got)
	}
}

// TestNoChannels: a node without a hub says so, and what helps.
func TestNoChannels(t *testing.T) {
	nw := newNetwork(t, "plain")
	nw.bill(nil)
	d, err := control.Dial(filepath.Join(nw.dir, "r1", "c.sock"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := d.Channels(ctx); err == nil || !strings.Contains(control.Hint(err), "billing.hub") {
		t.Errorf("channels without a hub: %v, hint %q", err, control.Hint(err))
	}
	at := nw.nodes["c"].id.ID.String()
	eventually(t, "there is an account with the client", func() bool {
		_, err := d.CloseChannel(ctx, at)
		return err != nil && strings.Contains(control.Hint(err), "billing.hub")
	})
	for _, amount := range []string{"0", "-1", "x", "1/2"} {
		if _, err := d.TopUpChannel(ctx, at, amount); err == nil || !strings.Contains(control.Hint(err), "decimal") {
			t.Errorf("a top-up of %q: %v, hint %q", amount, err, control.Hint(err))
		}
	}
	if _, err := d.TopUpChannel(ctx, at, "0.5"); err == nil || !strings.Contains(control.Hint(err), "billing.hub") {
		t.Errorf("a top-up without a hub: %v", err)
	}
}
