package billing

import (
	"context"
	"math/big"
	"path/filepath"
	"testing"
	"time"

	"cuttle/billing/evm"
	"cuttle/billing/wallet"
	"cuttle/relay/wire"
)

const (
	testWindow   = Amount(80_000)
	testDecimals = 18
)

// voucherNode is a node that settles with vouchers and whose chain is what the
// test says it is: no endpoint answers.
type voucherNode struct {
	*Book
	c       *channels
	wallet  *wallet.Wallet
	earning evm.Address
	cfg     Config
}

func openVouchers(tb testing.TB, self byte, dir string, change func(*Config)) *voucherNode {
	tb.Helper()
	path := filepath.Join(dir, "wallet")
	w, err := wallet.Open(path, "pw")
	if err != nil {
		if w, err = wallet.Create(path, "pw", true); err != nil {
			tb.Fatal(err)
		}
	}
	client, err := evm.NewClient(evm.ClientConfig{Endpoints: []string{"http://127.0.0.1:1"}, ChainID: 1337, Token: evm.Address{7}})
	if err != nil {
		tb.Fatal(err)
	}
	v := &voucherNode{wallet: w, earning: evm.Address{self, 9}}
	v.cfg = Config{
		Path: filepath.Join(dir, "ledger"), Self: testID(self), MarkerCells: 100, Credit: 1 << 60, PollEvery: time.Millisecond,
		Direct: &DirectConfig{Client: client, Wallet: w, Earning: v.earning, Channels: &ChannelConfig{Hub: evm.Address{8}, Window: testWindow}},
	}
	if change != nil {
		change(&v.cfg)
	}
	v.Book, err = Open(v.cfg)
	if err != nil {
		tb.Fatal(err)
	}
	v.c = v.settler.(*channels)
	v.c.decimals.Store(testDecimals)
	v.c.checked.Store(true)
	tb.Cleanup(func() {
		if err := v.Close(); err != nil {
			tb.Error(err)
		}
		client.Close()
	})
	return v
}

// show lets both see the payer's channel to the payee in a state of the chain.
func show(tb testing.TB, payer, payee *voucherNode, at uint64, change func(*evm.ChannelView)) {
	tb.Helper()
	pair := evm.Pair{Payer: payer.wallet.Address(), Payee: payee.earning}
	var key []byte
	for _, n := range []*voucherNode{payer, payee} {
		dir := 0
		if n == payee {
			dir = 1
		}
		err := n.ledger.update(context.Background(), func(tx *tx) error {
			r, err := tx.channel(pair)
			if err == nil && r == nil {
				if dir == 0 {
					k, err := evm.NewChannelKey()
					if err != nil {
						return err
					}
					key = k[:]
				}
				if err := tx.exec("INSERT INTO channel (neighbor, dir, payer, payee, key) VALUES (1, ?, ?, ?, ?)", dir, pair.Payer[:], pair.Payee[:], key); err != nil {
					return err
				}
				r, err = tx.channel(pair)
			}
			if err != nil {
				return err
			}
			if dir == 0 {
				key = r.key
			}
			open := evm.Channel{Deposit: toToken(1_000_000, testDecimals), Paid: new(big.Int), Epoch: 1, Signer: evm.ChannelKey(key).Address()}
			v := evm.ChannelView{Deep: open}
			if change != nil {
				change(&v)
			}
			return tx.observe(r, v, at, new(big.Int), testDecimals)
		})
		if err != nil {
			tb.Fatal(err)
		}
	}
}

// voucherPair is a payer and a payee, linked, with a channel of 0.001 token.
func voucherPair(tb testing.TB, change func(*Config)) (a, b *voucherNode, l *memLink) {
	tb.Helper()
	a, b = openVouchers(tb, 1, tb.TempDir(), change), openVouchers(tb, 2, tb.TempDir(), change)
	l = join(tb, a.Book, b.Book)
	return a, b, l
}

func greeted(tb testing.TB, l *memLink) {
	tb.Helper()
	l.run()
	eventually(tb, "the hellos are durable", func() bool {
		for _, e := range l.ends {
			e.n.mu.Lock()
			ok := e.n.base != nil && len(e.n.writes) == 0
			e.n.mu.Unlock()
			if !ok {
				return false
			}
		}
		return true
	})
}

func checked(tb testing.TB, nodes ...*voucherNode) {
	tb.Helper()
	for _, n := range nodes {
		if err := n.ledger.update(context.Background(), func(tx *tx) error { return tx.verify() }); err != nil {
			tb.Error(err)
		}
	}
}

func channelOf(tb testing.TB, n *voucherNode, wePay bool) ChannelReport {
	tb.Helper()
	for _, c := range report(tb, n.Book).Neighbors[0].Channels {
		if c.WePay == wePay {
			return c
		}
	}
	return ChannelReport{}
}

// consume has a use b's service for about that much, and returns when all counts
// are agreed.
func consume(tb testing.TB, a, b *voucherNode, l *memLink, amount Amount) {
	tb.Helper()
	cells := wire.Cells(uint64(amount) << priceShift / tierPrice / 10 / 2)
	for left := cells; left > 0; left -= min(left, 50) {
		l.ends[0].send(WePay, 10, min(left, 50))
		l.ends[1].send(TheyPay, 10, min(left, 50))
	}
	eventually(tb, "all cells are counted", l.drained)
	flushBoth(tb, a.Book, b.Book)
}

// TestVouchers pays a window after the other without a chain in between, both
// ledgers equal at the end, and cashing and closing are booked from what the
// chain shows.
func TestVouchers(t *testing.T) {
	a, b, l := voucherPair(t, nil)
	greeted(t, l)
	show(t, a, b, 10, nil)
	for range 10 {
		consume(t, a, b, l, testWindow/2)
		eventually(t, "all is paid", func() bool {
			return report(t, a.Book).Neighbors[0].InTransit == 0 && report(t, a.Book).Neighbors[0].WeOwe < testWindow/windowParts &&
				report(t, b.Book).Neighbors[0].TheyOwe == report(t, a.Book).Neighbors[0].WeOwe
		})
	}
	given, held := channelOf(t, a, true), channelOf(t, b, false)
	if given.Vouchers != held.Vouchers || held.Vouchers < 4*testWindow || given.Deposit != 1_000_000 || held.Deposit != 1_000_000 {
		t.Fatalf("channel: payer %+v, payee %+v", given, held)
	}
	if r := report(t, b.Book).Neighbors[0]; r.Standing != Active || r.Way != WayVoucher {
		t.Errorf("standing %s, way %s", r.Standing, r.Way)
	}
	paid := toToken(held.Vouchers, testDecimals)
	show(t, a, b, 20, func(v *evm.ChannelView) {
		v.Deep.Deposit, v.Deep.Paid = new(big.Int).Sub(v.Deep.Deposit, paid), paid
	})
	if given, held := channelOf(t, a, true), channelOf(t, b, false); given.Cashed != held.Vouchers || held.Cashed != held.Vouchers {
		t.Errorf("after cashing: payer %+v, payee %+v", given, held)
	}
	show(t, a, b, 30, func(v *evm.ChannelView) {
		v.Deep.Deposit, v.Deep.Paid, v.Deep.Signer = new(big.Int), paid, evm.Address{}
	})
	l.cut()
	checked(t, a, b)
	var locked, left int64
	for _, q := range []struct {
		n       *voucherNode
		account string
		to      *int64
	}{{a, accLocked, &locked}, {a, accPaid, &left}} {
		if err := q.n.ledger.read.QueryRow("SELECT coalesce(sum(amount), 0) FROM posting WHERE account = ?", q.account).Scan(q.to); err != nil {
			t.Fatal(err)
		}
	}
	if locked != 0 || Amount(-left) != held.Vouchers {
		t.Errorf("after the close %d is locked and %d has left the wallet, want 0 and %d", locked, -left, held.Vouchers)
	}
}

// TestVoucherWithoutAck: a payee that never says what it holds gets one voucher
// and no second one, and the same again on each link.
func TestVoucherWithoutAck(t *testing.T) {
	a, b, l := voucherPair(t, nil)
	mute := func(l *memLink) {
		l.ends[1].twist = func(f *memFrame) {
			if f.bill != nil && f.bill[0] == kindPay {
				f.bill = (&state{standing: Active}).append(nil)
			}
		}
	}
	mute(l)
	greeted(t, l)
	show(t, a, b, 10, nil)
	consume(t, a, b, l, testWindow/3)
	eventually(t, "a voucher is on its way", func() bool { return report(t, a.Book).Neighbors[0].InTransit > 0 })
	first := channelOf(t, a, true).Vouchers
	consume(t, a, b, l, testWindow/3)
	for range 5 {
		muchLater(a.live()[0])
	}
	flushBoth(t, a.Book, b.Book)
	if got := channelOf(t, a, true).Vouchers; got != first {
		t.Errorf("%v was given without an answer, after %v", got, first)
	}
	if first > testWindow {
		t.Errorf("the first voucher is for %v, more than a window", first)
	}
	l.cut()
	l = join(t, a.Book, b.Book) // now it answers
	greeted(t, l)
	eventually(t, "the rest is paid", func() bool {
		if live := a.live(); len(live) > 0 {
			muchLater(live[0])
		}
		r := report(t, a.Book).Neighbors[0]
		return r.InTransit == 0 && r.WeOwe == 0 && report(t, b.Book).Neighbors[0].TheyOwe == 0
	})
	l.cut()
	checked(t, a, b)
}

// TestBestWay: with a neighbor that knows no vouchers, or another hub, transfers
// are what is left.
func TestBestWay(t *testing.T) {
	a := openVouchers(t, 1, t.TempDir(), nil)
	for name, c := range map[string]struct {
		change func(*Config)
		want   Way
	}{
		"the same hub": {nil, WayVoucher},
		"another hub":  {func(c *Config) { c.Direct.Channels.Hub = evm.Address{99} }, WayDirect},
		"no hub":       {func(c *Config) { c.Direct.Channels = nil }, WayDirect},
	} {
		dir := t.TempDir()
		w, err := wallet.Create(filepath.Join(dir, "wallet"), "pw", true)
		if err != nil {
			t.Fatal(err)
		}
		cfg := a.cfg
		d := *cfg.Direct
		ch := *d.Channels
		d.Wallet, d.Earning, d.Channels = w, evm.Address{3}, &ch
		cfg.Path, cfg.Self, cfg.Direct = filepath.Join(dir, "ledger"), testID(3), &d
		if c.change != nil {
			c.change(&cfg)
		}
		b, err := Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		l := join(t, a.Book, b)
		greeted(t, l)
		if got := report(t, a.Book).Neighbors[0].Way; got != c.want {
			t.Errorf("%s: a settles by %s, want %s", name, got, c.want)
		}
		if got := report(t, b).Neighbors[0].Way; got != c.want {
			t.Errorf("%s: b settles by %s, want %s", name, got, c.want)
		}
		l.cut()
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
}

// BenchmarkVerifyVoucher is what a payee does for a voucher before it books it.
func BenchmarkVerifyVoucher(b *testing.B) {
	key, err := evm.NewChannelKey()
	if err != nil {
		b.Fatal(err)
	}
	pair := evm.Pair{Payer: evm.Address{1}, Payee: evm.Address{2}}
	m := signed(voucherMessage{what: voucherGiven, epoch: 1, cum: big.NewInt(1e18)}, 1337, evm.Address{8}, pair, key)
	raw, signer := m.append(nil), key.Address()
	b.ReportAllocs()
	for b.Loop() {
		m, err := parseVoucher(raw)
		if err == nil {
			err = m.voucher(1337, evm.Address{8}, pair).Verify(signer, m.sig)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "vouchers/s")
}

// muchLater has the neighbor do what is due within an hour.
func muchLater(n *Neighbor) {
	n.tick(n.book.cfg.Up() + time.Hour)
	n.book.settler.Moved(n, time.Now().Add(time.Hour))
}
