package main

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cuttle/internal/control"
)

func (d *daemon) Balances(context.Context) (control.Balances, error) {
	return control.Balances{}, d.fail
}
func (d *daemon) Taken(context.Context) ([]control.Taken, string, error) {
	return d.taken, fmt.Sprintf("%d lost", len(d.taken)), nil
}
func (d *daemon) Resume(_ context.Context, digest string) error { return d.name("resume " + digest) }

// TestResume: what was lost is shown, and the daemon is asked after a yes, and told
// what was shown.
func TestResume(t *testing.T) {
	d := example()
	lost := []control.Taken{{Nonce: 41, Tx: "0x1", Payee: "0xabc", Amount: "0.25"}, {Nonce: 42, Tx: "0x2", Payee: "0xdef", Amount: "0.1", Call: true}}
	d.taken = lost
	socket := serve(t, d)
	for _, c := range []struct {
		in   string
		args []string
		code int
		says []string
		asks bool // of the daemon
	}{
		{"yes\n", nil, exitOK, []string{"41", "0.25", "0xabc", "call for channels", "Nothing else uses the wallet", "sends again"}, true},
		{"no\n", nil, exitError, []string{"0.25", "not confirmed"}, false},
		{"", nil, exitError, []string{"standard input ended"}, false},
		{"", []string{"--yes"}, exitOK, []string{"41", "sends again"}, true},
		{"", []string{"--yes", "--json"}, exitOK, []string{`"schema": 1`}, true},
		{"", []string{"--help"}, exitOK, []string{"Stop the other program first"}, false},
		{"", []string{"now"}, exitUsage, nil, false},
	} {
		d.named = nil
		code, out, shown := said(t, c.in, append([]string{"-s", socket, "wallet", "resume"}, c.args...)...)
		var want []string
		if c.asks {
			want = []string{"resume 2 lost"}
		}
		if code != c.code || !slices.Equal(d.named, want) {
			t.Errorf("%q, %q: code %d, %q, %q, the daemon was asked %q; want %d, %q", c.in, c.args, code, out, shown, d.named, c.code, want)
		}
		for _, s := range c.says {
			if !strings.Contains(out+shown, s) {
				t.Errorf("%q, %q: %q, %q do not say %q", c.in, c.args, out, shown, s)
			}
		}
	}
	d.fail = &control.Error{Text: "the wallet is not at rest", Hint: "stop the other program"}
	if code, _, shown := said(t, "yes\n", "-s", socket, "wallet", "resume"); code != exitError || !strings.Contains(shown, "not at rest") || !strings.Contains(shown, "stop the other") {
		t.Errorf("a refusal: code %d, %q", code, shown)
	}
	d.taken = nil
	d.fail = &control.Error{Text: "no other program has used the wallet"}
	if code, _, shown := said(t, "", "-s", socket, "wallet", "resume"); code != exitError || !strings.Contains(shown, "no other program") {
		t.Errorf("with nothing to resume: code %d, %q", code, shown)
	}
	if last := d.named[len(d.named)-1]; last != "resume 0 lost" {
		t.Errorf("with nothing to resume the daemon was asked %q, want that nothing was shown", last)
	}
	if code, _, _ := said(t, "", "-s", filepath.Join(t.TempDir(), "s"), "wallet", "resume", "--yes"); code != exitDisconnected {
		t.Errorf("without a daemon: code %d, want %d", code, exitDisconnected)
	}
}
