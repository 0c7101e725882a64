package evm

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

// TestTakenNonce: that another transaction has used a payment's nonce is not
// believed of one endpoint where there are several.
func TestTakenNonce(t *testing.T) {
	for _, c := range []struct {
		name     string
		says     []string // how many nonces each endpoint calls used
		receipt  int      // the endpoint that has a receipt all the same; -1: none
		want     State
		disagree bool
		aside    bool // the first is set aside
	}{
		{name: "one, alone", says: []string{"0x1"}, receipt: -1, want: Superseded},
		{name: "one of two", says: []string{"0x1", "0x0"}, receipt: -1, want: Sent, disagree: true},
		{name: "the other of two", says: []string{"0x0", "0x1"}, receipt: -1, want: Sent},
		{name: "both", says: []string{"0x1", "0x1"}, receipt: -1, want: Superseded},
		{name: "one of three", says: []string{"0x1", "0x0", "0x0"}, receipt: -1, want: Sent, aside: true},
		{name: "two of three", says: []string{"0x1", "0x0", "0x1"}, receipt: -1, want: Superseded},
		{name: "both, and one has the payment", says: []string{"0x1", "0x1"}, receipt: 1, want: Final, disagree: true},
	} {
		var all []*fakeChain
		var urls []string
		for range c.says {
			f := startFake(t, 7)
			all, urls = append(all, f), append(urls, f.url)
		}
		client := testClient(t, nil, urls...)
		j, p := sentPayment(t, client)
		for i, f := range all {
			f.set("eth_getTransactionCount", always(c.says[i]))
			if i == c.receipt {
				f.set("eth_getTransactionReceipt", receiptIn(80, word(80), "0x1"))
			}
		}
		_, err := p.Advance(context.Background())
		if c.receipt >= 0 { // one of two is not enough to call it done, either
			if !errors.Is(err, ErrDisagree) || !j.in.State.Open() {
				t.Errorf("%s: %s, %v", c.name, j.in.State, err)
			}
			continue
		}
		if j.in.State != c.want || errors.Is(err, ErrDisagree) != c.disagree || !c.disagree && err != nil {
			t.Errorf("%s: payment is %s, %v; want %s", c.name, j.in.State, err, c.want)
		}
		if d := client.Doubts(); (len(d) == 1 && strings.Contains(d[0], urls[0])) != c.aside && c.name != "two of three" {
			t.Errorf("%s: doubts %q", c.name, d)
		}
	}
}

// TestTakenDuringFork: the chain changes between what an endpoint says of the nonce
// and of the payment. That is no proof of anything.
func TestTakenDuringFork(t *testing.T) {
	f := startFake(t, 7)
	client := testClient(t, nil, f.url)
	j, p := sentPayment(t, client)
	f.set("eth_getTransactionCount", always("0x1"))
	forked := false
	f.set("eth_getTransactionReceipt", func([]json.RawMessage) any {
		forked = true // by the time that it is asked, the block with the payment is gone
		return nil
	})
	f.set("eth_getBlockByNumber", func(q []json.RawMessage) any {
		b := fakeBlock(q)
		if forked {
			b = otherHash(q)
		}
		forked = false
		return b
	})
	if _, err := p.Advance(context.Background()); err == nil || j.in.State != Sent {
		t.Errorf("during the fork: payment is %s, %v; want an error, and nothing changed", j.in.State, err)
	}
	f.set("eth_getBlockByNumber", otherHash)
	f.set("eth_getTransactionReceipt", always(nil))
	f.set("eth_getTransactionCount", always("0x0"))
	before := f.count("eth_sendRawTransaction")
	if _, err := p.Advance(context.Background()); err != nil || j.in.State != Sent || f.count("eth_sendRawTransaction") != before+1 {
		t.Errorf("after it: payment is %s, %v; want it sent again", j.in.State, err)
	}
}

// finalPayment is a payment that is final in block 80, looked at with head 100.
func finalPayment(t *testing.T, all ...*fakeChain) (*Client, *memJournal, *Payments) {
	t.Helper()
	var urls []string
	for _, f := range all {
		urls = append(urls, f.url)
	}
	client := testClient(t, nil, urls...)
	j, p := sentPayment(t, client)
	for _, f := range all {
		f.set("eth_getTransactionReceipt", receiptIn(80, word(80), "0x1"))
		f.set("eth_getTransactionCount", always("0x1"))
	}
	if _, err := p.Advance(context.Background()); err != nil || j.in.State != Final {
		t.Fatalf("payment is %s, %v", j.in.State, err)
	}
	return client, j, p
}

// TestUnusedNonce: the nonce of a payment that is final long since is unused again.
// It is sent as it was, once two endpoints have said so twice.
func TestUnusedNonce(t *testing.T) {
	a, b := startFake(t, 7), startFake(t, 7)
	_, j, p := finalPayment(t, a, b)
	raw := string(j.in.Attempts[0].Raw)
	at := func(head, nonceA, nonceB string) error {
		for f, nonce := range map[*fakeChain]string{a: nonceA, b: nonceB} {
			f.set("eth_getTransactionCount", always(nonce))
			f.set("eth_getBlockByNumber", headAt(head))
			f.set("eth_getTransactionReceipt", always(nil))
		}
		_, err := p.Advance(context.Background())
		return err
	}
	for _, step := range []struct {
		name, head, a, b string
		want             State
		disagree         bool
	}{
		{"nothing is wrong", "0x64", "0x1", "0x1", Final, false},
		{"one says so", "0x65", "0x0", "0x1", Final, true},
		{"one says so, later", "0x66", "0x0", "0x1", Final, true},
		{"both say so", "0x67", "0x0", "0x0", Final, false},
		{"at the same block", "0x67", "0x0", "0x0", Final, false},
		{"not any more", "0x68", "0x1", "0x1", Final, false},
		{"both say so again", "0x69", "0x0", "0x0", Final, false},
		{"and at a later block", "0x6a", "0x0", "0x0", Sent, false},
	} {
		if err := at(step.head, step.a, step.b); j.in.State != step.want || errors.Is(err, ErrDisagree) != step.disagree || !step.disagree && err != nil {
			t.Errorf("%s: payment is %s, %v; want %s", step.name, j.in.State, err, step.want)
		}
	}
	if n := a.count("eth_sendRawTransaction"); n != 2 || len(j.in.Attempts) != 1 || j.in.Nonce != 0 || string(j.in.Attempts[0].Raw) != raw {
		t.Errorf("sent %d times in %d attempts; want the same bytes twice", n, len(j.in.Attempts))
	}
	// A chain that is not as far as the payment's block says nothing of it.
	c := startFake(t, 7)
	_, j, p = finalPayment(t, c)
	c.set("eth_getTransactionCount", always("0x0"))
	for _, head := range []string{"0x50", "0x51"} {
		c.set("eth_getBlockByNumber", headAt(head))
		if _, err := p.Advance(context.Background()); err != nil || j.in.State != Final {
			t.Errorf("head %s: payment is %s, %v", head, j.in.State, err)
		}
	}
}

// TestRegain: a payment whose nonce another transaction had goes on when that one is
// not on the chain any more, or was a lie.
func TestRegain(t *testing.T) {
	for _, c := range []struct {
		name    string
		nonces  string // used and pending by then
		receipt any    // of ours
		want    State
	}{
		{"still taken", "0x1", nil, Superseded},
		{"free again", "0x0", nil, Sent},
		{"ours", "0x1", receiptIn(85, word(85), "0x1"), Mined},
	} {
		f := startFake(t, 7)
		j, p := sentPayment(t, testClient(t, nil, f.url))
		j.stays = true
		f.set("eth_getTransactionCount", always("0x1"))
		out, err := p.Advance(context.Background())
		if err != nil || j.in.State != Superseded || len(out.Problems) != 1 || out.Problems[0].Kind != UsedElsewhere {
			t.Fatalf("%s: payment is %s, %+v, %v", c.name, j.in.State, out.Problems, err)
		}
		f.set("eth_getTransactionCount", always(c.nonces))
		if fn, ok := c.receipt.(func([]json.RawMessage) any); ok {
			f.set("eth_getTransactionReceipt", fn)
		}
		if out, err = p.Advance(context.Background()); err != nil || j.in.State != c.want || (len(out.Problems) == 1) != (c.want == Superseded) {
			t.Errorf("%s: payment is %s, %+v, %v; want %s", c.name, j.in.State, out.Problems, err, c.want)
		}
	}
}

// TestResumable: a wallet may send again only while the chain says that others have
// used its nonces and are done.
func TestResumable(t *testing.T) {
	taken := []Intent{{ID: 1, State: Superseded, Nonce: 4, Attempts: []Attempt{{Hash: Hash{1}}}}}
	open := []Intent{{ID: 2, State: Sent, Nonce: 5}, {ID: 3, State: Planned}}
	for _, c := range []struct {
		name              string
		a, b              string // nonces used, by endpoint
		pending           string
		ours              bool // there is a receipt of ours
		short             bool // the chain is no longer than a block
		refused, disagree bool
	}{
		{name: "at rest", a: "0x5", b: "0x5", pending: "0x5"},
		{name: "ours waits", a: "0x5", b: "0x5", pending: "0x6"},
		{name: "another waits", a: "0x5", b: "0x5", pending: "0x7", refused: true},
		{name: "not used", a: "0x4", b: "0x4", pending: "0x4", refused: true},
		{name: "used by us", a: "0x5", b: "0x5", pending: "0x5", ours: true, refused: true},
		{name: "one says so", a: "0x5", b: "0x4", pending: "0x5", disagree: true},
		{name: "nothing stays yet", a: "0x5", b: "0x5", pending: "0x5", short: true, refused: true},
	} {
		var urls []string
		for _, used := range []string{c.a, c.b} {
			f := startFake(t, 7)
			f.set("eth_getTransactionCount", func(p []json.RawMessage) any {
				var block string
				if json.Unmarshal(p[1], &block) == nil && block == "pending" {
					return c.pending
				}
				return used
			})
			if c.ours {
				f.set("eth_getTransactionReceipt", receiptIn(80, word(80), "0x1"))
			}
			if c.short {
				f.set("eth_getBlockByNumber", headAt("0x1"))
			}
			urls = append(urls, f.url)
		}
		err := testClient(t, nil, urls...).Resumable(context.Background(), Address{3}, 3, taken, open)
		if errors.Is(err, ErrNotAtRest) != c.refused || errors.Is(err, ErrDisagree) != c.disagree || !c.refused && !c.disagree && err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
