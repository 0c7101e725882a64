package main

import (
	"encoding/csv"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cuttle/billing"
	"cuttle/internal/control"
	"cuttle/relay/wire"
)

// silent is a link that says nothing back.
type silent struct{}

func (silent) Bill([]byte) error { return nil }
func (silent) Wake()             {}
func (silent) Close()            {}
func (silent) Throttle(int)      {}

// ledgerFile makes a ledger that knows one neighbor, and a configuration that
// names it.
func ledgerFile(t *testing.T) (cfg, path string) {
	t.Helper()
	dir := t.TempDir()
	path, cfg = filepath.Join(dir, "ledger.db"), filepath.Join(dir, "c.toml")
	b, err := billing.Open(billing.Config{Path: path, Self: wire.NodeID{1, 31: 1}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Neighbor(wire.NodeID{2, 31: 1}, silent{}); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(cfg, []byte("[node]\nstate = \""+dir+"\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return cfg, path
}

func TestLedgerFile(t *testing.T) {
	cfg, path := ledgerFile(t)
	code, out, shown := said(t, "", "ledger", "verify", "--config", cfg)
	if code != exitOK || !strings.Contains(out, "fits together: 1 neighbors") {
		t.Errorf("verify: code %d, %s %s", code, out, shown)
	}
	var v verified
	if code, out, _ := said(t, "", "--json", "ledger", "verify", path); code != exitOK || json.Unmarshal([]byte(out), &v) != nil || !v.OK || v.Neighbors != 1 {
		t.Errorf("verify --json: code %d, %s", code, out)
	}
	if code, out, _ := said(t, "", "--json", "ledger", "history", path); code != exitOK || !strings.Contains(out, `"history": []`) {
		t.Errorf("history --json: code %d, %s", code, out)
	}
	_, out, _ = said(t, "", "ledger", "balances", "--csv", path)
	if table, err := csv.NewReader(strings.NewReader(out)).ReadAll(); err != nil || len(table) != 2 || table[0][0] != "neighbor" || table[1][0] != (wire.NodeID{2, 31: 1}).String() {
		t.Errorf("balances --csv: %q, %v", table, err)
	}
	if code, _, _ := said(t, "", "ledger", "history", path, "--neighbor", "x"); code != exitUsage {
		t.Errorf("history of nobody: code %d, want %d", code, exitUsage)
	}
	if err := os.WriteFile(path, []byte(strings.Repeat("garbage ", 600)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, verb := range []string{"verify", "history", "balances"} {
		if code, _, shown := said(t, "", "ledger", verb, path); code != exitError || !strings.Contains(shown, path) {
			t.Errorf("%s of garbage: code %d, %s", verb, code, shown)
		}
	}
	if code, _, _ := said(t, "", "ledger", "verify", path+".no"); code != exitError {
		t.Errorf("verify of no file: code %d, want %d", code, exitError)
	}
}

// TestLedgerAdopt asks before it does, and never beside a daemon.
func TestLedgerAdopt(t *testing.T) {
	_, path := ledgerFile(t)
	if err := os.WriteFile(path+".generation", []byte("99\n"), 0o600); err != nil { // a newer one was in use
		t.Fatal(err)
	}
	nobody := filepath.Join(t.TempDir(), "s")
	if code, _, shown := said(t, "no\n", "-s", nobody, "ledger", "adopt", path); code != exitError || !strings.Contains(shown, "not confirmed") {
		t.Errorf("without yes: code %d, %s", code, shown)
	}
	if code, _, shown := said(t, "yes\n", "-s", serve(t, &daemon{}), "ledger", "adopt", path); code != exitError || !strings.Contains(shown, "running") {
		t.Errorf("beside a daemon: code %d, %s", code, shown)
	}
	if code, _, shown := said(t, "yes\n", "-s", nobody, "ledger", "adopt", path); code != exitOK {
		t.Errorf("adopt: code %d, %s", code, shown)
	}
	b, err := billing.Open(billing.Config{Path: path, Self: wire.NodeID{1, 31: 1}})
	if err != nil {
		t.Fatalf("an adopted ledger: %v", err)
	}
	b.Close()
}

func TestLedgerCSV(t *testing.T) {
	d := &daemon{ledger: control.Ledger{Mode: "paid", Accounts: []control.Account{{Node: "n", State: "cut", Reason: "owes, too much", Owed: "1.5", SpentPerGB: "0.002"}}}}
	code, out, shown := said(t, "", "-s", serve(t, d), "ledger", "--csv")
	table, err := csv.NewReader(strings.NewReader(out)).ReadAll()
	if code != exitOK || err != nil || len(table) != 2 || table[1][2] != "owes, too much" || table[1][7] != "0.002" {
		t.Errorf("code %d, %q, %v, %s", code, table, err, shown)
	}
}
