package main

import (
	"context"
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cuttle/internal/control"
)

func (d *daemon) Channels(context.Context) ([]control.Channel, error) {
	return d.channels, d.noChannels
}
func (d *daemon) CloseChannel(_ context.Context, node string) error { return d.name("close " + node) }
func (d *daemon) TopUpChannel(_ context.Context, node, amount string) error {
	return d.name("topup " + node + " " + amount)
}

func exampleChannels() []control.Channel {
	return []control.Channel{
		{Node: key("b"), Direction: "out", State: control.ChannelOpen, Epoch: 1, Deposit: "0.1", Target: "0.3", Given: "0.03", Cashed: "0.02", Left: "0.07", UnderWay: "topping up", Payer: "0xabc"},
		{Node: key("b"), Direction: "in", State: control.ChannelOpen, Epoch: 2, Deposit: "1", Target: "1", Given: "0.5", Cashed: "0", Left: "0.5"},
		{Node: key("c"), Direction: "out", State: control.ChannelClosing, Epoch: 1, Deposit: "0.1", Target: "0.1", Given: "0", Cashed: "0", Left: "0.1", CloseAt: now.Add(72 * time.Hour).Unix()},
		{Node: key("d"), Direction: "out", State: control.ChannelClosed, Epoch: 4, Deposit: "0", Target: "0", Given: "0", Cashed: "0", Left: "0"},
		{Node: key("e"), Direction: "out", State: control.ChannelOpening, Deposit: "0", Target: "0", Given: "0", Cashed: "0", Left: "0", UnderWay: "opening"},
	}
}

func TestChannelPages(t *testing.T) {
	for name, all := range map[string][]control.Channel{"channels": exampleChannels(), "channels-none": nil} {
		p := &page{now: now}
		p.channels(all)
		golden(t, name, p.String())
	}
}

// TestChannelCommands: the one channel that is meant is closed or topped up, after
// a yes.
func TestChannelCommands(t *testing.T) {
	d := example()
	d.channels = exampleChannels()
	socket := serve(t, d)
	for _, c := range []struct {
		in   string
		args []string
		code int
		says string
		asks string // of the daemon
	}{
		{"yes\n", []string{"channel", "close", "BBBB"}, exitOK, "0.07 comes back", "close " + key("b")},
		{"no\n", []string{"channel", "close", "bbbb"}, exitError, "not confirmed", ""},
		{"", []string{"channel", "close", "bbbb"}, exitError, "standard input ended", ""},
		{"", []string{"channel", "close", "bbbb", "--yes"}, exitOK, "Notice is being given", "close " + key("b")},
		{"", []string{"channel", "close", "c", "--yes", "--json"}, exitOK, `"schema": 1`, "close " + key("c")},
		{"", []string{"channel", "close", "d", "--yes"}, exitError, "no open channel", ""},
		{"", []string{"channel", "close", "", "--yes"}, exitError, "no open channel", ""},
		{"yes\n", []string{"channel", "topup", "b", "0.25"}, exitOK, "0.25 of the token leaves the wallet 0xabc", "topup " + key("b") + " 0.25"},
		{"", []string{"channel", "topup", "b", "0.25", "--yes"}, exitOK, "on its way", "topup " + key("b") + " 0.25"},
		{"", []string{"channel", "close"}, exitUsage, "want a neighbor", ""},
		{"", []string{"channel", "topup", "b"}, exitUsage, "want a neighbor and an amount", ""},
		{"", []string{"channel", "open"}, exitUsage, "unknown command", ""},
	} {
		d.named = nil
		code, out, shown := said(t, c.in, append([]string{"-s", socket}, c.args...)...)
		var want []string
		if c.asks != "" {
			want = []string{c.asks}
		}
		if code != c.code || !strings.Contains(out+shown, c.says) || !slices.Equal(d.named, want) {
			t.Errorf("%q: code %d, %q, %q, the daemon was asked %q; want %d, %q, %q", c.args, code, out, shown, d.named, c.code, c.says, want)
		}
	}
	_, out, _ := said(t, "", "-s", socket, "channel", "--json")
	var listed control.Channels
	if err := json.Unmarshal([]byte(out), &listed); err != nil || len(listed.Channels) != 5 || listed.Schema != control.Schema {
		t.Errorf("channel --json: %q, %v", out, err)
	}
	if _, out, _ := said(t, "", "-s", socket, "__complete", "channel", "close", ""); !strings.Contains(out, key("b")) || strings.Contains(out, key("d")) {
		t.Errorf("completion offers %q; want the open channel's neighbor alone", out)
	}
	d.fail = &control.Error{Text: "about to be closed", Hint: "cuttle channel"}
	if code, _, shown := said(t, "", "-s", socket, "channel", "topup", "b", "1", "--yes"); code != exitError || !strings.Contains(shown, "about to be closed") {
		t.Errorf("a refusal: code %d, %q", code, shown)
	}
	d.noChannels = &control.Error{Text: "this node has no channels", Hint: "billing.hub"}
	if code, _, shown := said(t, "", "-s", socket, "channel"); code != exitError || !strings.Contains(shown, "billing.hub") {
		t.Errorf("without a hub: code %d, %q", code, shown)
	}
	if code, _, _ := said(t, "", "-s", filepath.Join(t.TempDir(), "s"), "channel", "close", "b", "--yes"); code != exitDisconnected {
		t.Errorf("without a daemon: code %d, want %d", code, exitDisconnected)
	}
}

// TestMoneyIsNoState: problems of payments are shown, and do not say that a
// machine is not as it was.
func TestMoneyIsNoState(t *testing.T) {
	money := control.Problem{Text: "no gas: wallet 0xabc", Hint: "send some", Area: control.AreaMoney}
	d := &daemon{status: control.Status{State: control.StateOff, Roles: []string{"client"}, Problems: []control.Problem{money}}}
	socket := serve(t, d)
	if code, out, _ := cuttle(t, socket, "status"); code != exitDisconnected || !strings.Contains(out, "no gas") || !strings.Contains(out, "send some") {
		t.Errorf("status: code %d, %q; want %d and the problem with what to do", code, out, exitDisconnected)
	}
	if code, _, shown := cuttle(t, socket, "down"); code != exitOK {
		t.Errorf("down: code %d, %q", code, shown)
	}
	if _, out, _ := cuttle(t, socket, "status", "--json"); !strings.Contains(out, `"area": "money"`) {
		t.Errorf("status --json: %q", out)
	}
	d = &daemon{status: control.Status{State: control.StateOff, Roles: []string{"client"}, Problems: []control.Problem{money, {Text: "not closed"}}}}
	if code, _, _ := cuttle(t, serve(t, d), "status"); code != exitError {
		t.Errorf("status with another problem beside: code %d, want %d", code, exitError)
	}
}
