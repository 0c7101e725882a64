package billing

import (
	"errors"
	"math/big"
	"testing"
	"time"

	"cuttle/billing/evm"
)

// cheat is a way to pay with something that is not the voucher that is due.
type cheat struct {
	name string
	// forge makes the message of a good one; the key is the channel's.
	forge func(m *voucherMessage, pair evm.Pair, key evm.ChannelKey) *voucherMessage
	ends  bool // the link, at once
}

func signed(m voucherMessage, chain uint64, hub evm.Address, pair evm.Pair, key interface {
	SignDigest([32]byte) ([65]byte, error)
}) *voucherMessage {
	sig, err := m.voucher(chain, hub, pair).Sign(key)
	if err != nil {
		panic(err)
	}
	m.sig = sig
	return &m
}

// TestVoucherCheats: a payer cheats in every way that a message allows. The payee
// serves at most a window, and books nothing that it cannot cash.
func TestVoucherCheats(t *testing.T) {
	other, err := evm.NewChannelKey()
	if err != nil {
		t.Fatal(err)
	}
	var old *voucherMessage
	for _, c := range []cheat{
		{"says nothing", func(*voucherMessage, evm.Pair, evm.ChannelKey) *voucherMessage { return nil }, false},
		{"the first one for ever", func(m *voucherMessage, _ evm.Pair, _ evm.ChannelKey) *voucherMessage {
			if old == nil {
				old = m
			}
			return old
		}, false},
		{"for less", func(m *voucherMessage, p evm.Pair, k evm.ChannelKey) *voucherMessage {
			m.cum = new(big.Int).Div(m.cum, big.NewInt(1_000_000_000))
			return signed(*m, 1337, evm.Address{8}, p, k)
		}, false},
		{"overdrawn", func(m *voucherMessage, p evm.Pair, k evm.ChannelKey) *voucherMessage {
			m.cum = toToken(1_000_001, testDecimals)
			return signed(*m, 1337, evm.Address{8}, p, k)
		}, false},
		{"of the next epoch", func(m *voucherMessage, p evm.Pair, k evm.ChannelKey) *voucherMessage {
			m.epoch++
			return signed(*m, 1337, evm.Address{8}, p, k)
		}, false},
		{"of another chain", func(m *voucherMessage, p evm.Pair, k evm.ChannelKey) *voucherMessage {
			return signed(*m, 137, evm.Address{8}, p, k)
		}, true},
		{"of another hub", func(m *voucherMessage, p evm.Pair, k evm.ChannelKey) *voucherMessage {
			return signed(*m, 1337, evm.Address{9}, p, k)
		}, true},
		{"to another payee", func(m *voucherMessage, p evm.Pair, k evm.ChannelKey) *voucherMessage {
			p.Payee = evm.Address{3}
			return signed(*m, 1337, evm.Address{8}, p, k)
		}, true},
		{"of another payer", func(m *voucherMessage, p evm.Pair, k evm.ChannelKey) *voucherMessage {
			p.Payer = evm.Address{3}
			return signed(*m, 1337, evm.Address{8}, p, k)
		}, true},
		{"signed by another key", func(m *voucherMessage, p evm.Pair, _ evm.ChannelKey) *voucherMessage {
			return signed(*m, 1337, evm.Address{8}, p, other)
		}, true},
		{"with the amount changed", func(m *voucherMessage, _ evm.Pair, _ evm.ChannelKey) *voucherMessage {
			m.cum = new(big.Int).Add(m.cum, big.NewInt(1))
			return m
		}, true},
		{"the payee's own answer", func(m *voucherMessage, _ evm.Pair, _ evm.ChannelKey) *voucherMessage {
			m.what = voucherHeld
			return m
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			old = nil
			a, b, l := voucherPair(t, nil)
			pair := evm.Pair{Payer: a.wallet.Address(), Payee: b.earning}
			l.ends[0].twist = func(f *memFrame) {
				if f.bill == nil || f.bill[0] != kindPay {
					return
				}
				m, err := parseVoucher(f.bill[2:])
				if err != nil {
					panic(err)
				}
				var key []byte
				if err := a.ledger.read.QueryRow("SELECT key FROM channel WHERE dir = 0").Scan(&key); err != nil {
					panic(err)
				}
				if m = c.forge(m, pair, evm.ChannelKey(key)); m == nil {
					f.bill = (&state{standing: Active}).append(nil)
					return
				}
				f.bill = append([]byte{kindPay, byte(WayVoucher)}, m.append(nil)...)
			}
			greeted(t, l)
			show(t, a, b, 10, nil)
			served := abuse(t, a, l)
			l.cut()
			if ended := errors.Is(l.ends[1].error(), ErrMessage) || l.ends[1].error() == nil; !ended {
				t.Errorf("link ended with %v", l.ends[1].error())
			}
			held := channelOf(t, b, false)
			if held.Vouchers > held.Deposit || served-held.Vouchers > testWindow+testWindow/4 {
				t.Errorf("b served %v and holds %v of %v: loses more than a window of %v", served, held.Vouchers, held.Deposit, testWindow)
			}
			if c.ends && served > testWindow {
				t.Errorf("b served %v to somebody with a forged voucher", served)
			}
			checked(t, a, b)
		})
	}
}

// abuse uses b's service until b ends the link, or refuses and nothing more
// comes; what b has served by then.
func abuse(tb testing.TB, a *voucherNode, l *memLink) Amount {
	tb.Helper()
	b := l.ends[1].n
	for range 2000 {
		select {
		case <-l.stop:
			_, _, served := b.exposure()
			return served
		default:
		}
		if _, pending, _ := b.exposure(); pending < testWindow/4 {
			l.ends[1].send(TheyPay, 10, 40)
		}
		if live := a.live(); len(live) > 0 {
			muchLater(live[0])
		}
		b.tick(b.book.cfg.Up())
		time.Sleep(time.Millisecond)
		if owed, _, _ := b.exposure(); owed > 2*testWindow {
			tb.Errorf("b goes on at %v", owed)
			break
		}
	}
	_, _, served := b.exposure()
	return served
}

// TestPayeeCheats: a payee that shows a voucher which was never given loses the
// link, one that pays with the payer's own has paid nothing; the payer owes what
// it owed.
func TestPayeeCheats(t *testing.T) {
	for name, change := range map[string]func(m *voucherMessage){
		"a higher amount": func(m *voucherMessage) { m.cum = new(big.Int).Add(m.cum, big.NewInt(1)) },
		"its own voucher": func(m *voucherMessage) { m.what, m.cum = voucherGiven, new(big.Int).Add(m.cum, big.NewInt(1)) },
	} {
		t.Run(name, func(t *testing.T) {
			a, b, l := voucherPair(t, nil)
			l.ends[1].twist = func(f *memFrame) {
				if f.bill == nil || f.bill[0] != kindPay {
					return
				}
				m, err := parseVoucher(f.bill[2:])
				if err != nil || m.epoch == 0 {
					return
				}
				change(m)
				f.bill = append([]byte{kindPay, byte(WayVoucher)}, m.append(nil)...)
			}
			greeted(t, l)
			show(t, a, b, 10, nil)
			for range 40 {
				l.ends[1].send(TheyPay, 10, 50)
			}
			eventually(t, "the link ends, or all is counted", func() bool {
				select {
				case <-l.stop:
					return true
				default:
					return name == "its own voucher" && l.drained() && channelOf(t, a, true).Vouchers > 0
				}
			})
			l.cut()
			r := report(t, a.Book).Neighbors[0]
			if got := channelOf(t, a, true).Vouchers; got > testWindow || got+r.WeOwe != r.Spent || r.TheyOwe != 0 {
				t.Errorf("a has given %v and owes %v, of %v that it has used", got, r.WeOwe, r.Spent)
			}
			checked(t, a, b)
		})
	}
}
