package main

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"cuttle/internal/control"
)

func (d *daemon) PayNeighbor(_ context.Context, node string) error { return d.name("pay " + node) }
func (d *daemon) Unban(_ context.Context, node string) error       { return d.name("unban " + node) }

func (d *daemon) name(call string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.named = append(d.named, call)
	return d.fail
}

func TestPayAndBans(t *testing.T) {
	d := example()
	d.ledger.Accounts = []control.Account{
		{Node: key("b"), State: "active", Limit: "1", Restore: "0"},
		{Node: key("c"), State: "cut", Due: "2", Limit: "1", Restore: "1.25", Reason: "owes too much for its credit"},
		{Node: key("d"), State: "disputed", Due: "0.5", Limit: "1", Restore: "0", Reason: "counts differ"},
	}
	socket := serve(t, d)
	code, out, errOut := cuttle(t, socket, "bans")
	if code != exitOK || strings.Contains(out, key("b")[:shortKey]) || !strings.Contains(out, "paying 1.25, or cuttle unban "+key("c")[:shortKey]) ||
		!strings.Contains(out, "cuttle unban "+key("d")[:shortKey]) || strings.Contains(out, "paying 0,") {
		t.Errorf("bans: code %d, %q, %q", code, out, errOut)
	}
	_, out, _ = cuttle(t, socket, "bans", "--json")
	var listed bans
	if err := json.Unmarshal([]byte(out), &listed); err != nil || len(listed.Bans) != 2 || listed.Schema != control.Schema {
		t.Errorf("bans --json: %q, %v", out, err)
	}
	for _, args := range [][]string{{"pay", "cccc"}, {"unban", "dddd"}} {
		if code, _, errOut := cuttle(t, socket, args...); code != exitOK {
			t.Errorf("%v: code %d, %q", args, code, errOut)
		}
	}
	if want := []string{"pay cccc", "unban dddd"}; !slices.Equal(d.named, want) {
		t.Errorf("the daemon was asked %q, want %q", d.named, want)
	}
	for _, args := range [][]string{{"unban"}, {"unban", "a", "b"}, {"pay", "a", "b"}, {"bans", "x"}} {
		if code, _, _ := cuttle(t, socket, args...); code != exitUsage {
			t.Errorf("%v: code %d, want %d", args, code, exitUsage)
		}
	}
	d.fail = &control.Error{Text: "there is no account", Hint: "cuttle ledger"}
	if code, _, errOut := cuttle(t, socket, "unban", "x"); code != exitError || !strings.Contains(errOut, "cuttle ledger") {
		t.Errorf("a refusal: code %d, %q", code, errOut)
	}
	d.ledger.Accounts = nil
	if _, out, _ := cuttle(t, socket, "bans"); !strings.Contains(out, "Nobody is cut off") {
		t.Errorf("without bans: %q", out)
	}
}
