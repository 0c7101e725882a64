package billing

import (
	"bytes"
	"encoding/hex"
	"math"
	"math/big"
	"strings"
	"testing"

	"cuttle/billing/evm"
	"cuttle/relay/wire"
)

func sampleHello() *hello {
	h := &hello{ways: []Way{WayDirect, WayNone}, chainID: 1337, token: evm.Address{1}, earning: evm.Address{2}, bound: true, wallet: evm.Address{3}, expiry: 99}
	h.sig[0], h.sig[64] = 7, 27
	h.totals[Sent][WePay][0] = 1
	h.totals[Received][TheyPay][MaxTier] = maxTotal - 1
	return h
}

// TestGolden holds the bytes that docs/protocol.md section 7.1 describes.
func TestGolden(t *testing.T) {
	tal := &tally{reply: true, seq: 2, seen: 1}
	tal.sent[WePay][1], tal.sent[TheyPay][2] = 3, 4
	zeros := func(n int) string { return strings.Repeat("00", n) }
	for _, c := range []struct {
		name, want string
		got        []byte
	}{
		{"hello", "01 01 01 02 01 00 0000000000000539 01" + zeros(19) + "02" + zeros(19) + "03" + zeros(19) + "0000000000000063" + "07" + zeros(63) + "1b" +
			"0002 00 00 00 0000000000000001 01 01 3f 00ffffffffffffff", sampleHello().append(nil)},
		{"hello with a hub", "01 01 02 02 03 01" + zeros(8+20+20) + "05" + zeros(19) + "0000", (&hello{ways: []Way{WayVoucher, WayDirect}, hub: evm.Address{5}}).append(nil)},
		{"hello unbound", "01 01 00 01 00" + zeros(8+20+20) + "0000", (&hello{ways: []Way{WayNone}}).append(nil)},
		{"tally", "02 01 00000002 00000001 0002 00 01 0000000000000003 01 02 0000000000000004", tal.append(nil)},
		{"ack", "03 00000002 00", (&ack{seq: 2}).append(nil)},
		{"ack differs", "03 00000002 01 01 05 0000000000000009", (&ack{seq: 2, differs: true, payer: 1, tier: 5, cells: 9}).append(nil)},
		{"pay", "02 0000000000000007", payBody(payConfirm, 7)},
		{"state", "04 02 05 0000000000000007 0000000000000005 0000000000000004", (&state{Cut, ReasonStrangers, 7, 5, 4}).append(nil)},
	} {
		want, err := hex.DecodeString(strings.ReplaceAll(c.want, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(c.got, want) {
			t.Errorf("%s is %x, want %x", c.name, c.got, want)
		}
	}
}

func TestLargestFits(t *testing.T) {
	h := sampleHello()
	h.ways, h.hub = make([]Way, maxWays), evm.Address{1}
	for d := range h.totals {
		for p := range h.totals[d] {
			for i := range h.totals[d][p] {
				h.totals[d][p][i] = 1
			}
		}
	}
	if n := len(h.append(nil)); n > wire.MaxBill {
		t.Errorf("largest hello has %d bytes, a BILL frame holds %d", n, wire.MaxBill)
	}
}

func FuzzMessage(f *testing.F) {
	tal := &tally{seq: 1}
	tal.sent[WePay][1] = 5
	for _, b := range [][]byte{
		(&hello{ways: []Way{WayVoucher, WayDirect}, hub: evm.Address{5}}).append(nil),
		sampleHello().append(nil), tal.append(nil), (&ack{seq: 1}).append(nil), (&ack{seq: 1, differs: true}).append(nil),
		(&state{Throttled, ReasonAge, 1, 2, 3}).append(nil), late{5, evm.Hash{7}}.append(nil), {}, {1}, {2, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0xff, 0xff},
	} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, err := parseHello(b); err == nil && !bytes.Equal(h.append(nil), b) {
			t.Errorf("hello %x does not come back", b)
		}
		if m, err := parseTally(b); err == nil && !bytes.Equal(m.append(nil), b) {
			t.Errorf("tally %x does not come back", b)
		}
		if m, err := parseAck(b); err == nil && !bytes.Equal(m.append(nil), b) {
			t.Errorf("ack %x does not come back", b)
		}
		if m, err := parseState(b); err == nil && !bytes.Equal(m.append(nil), b) {
			t.Errorf("state %x does not come back", b)
		}
		if m, err := parseLate(b); err == nil && !bytes.Equal(m.append(nil), b) {
			t.Errorf("late %x does not come back", b)
		}
	})
}

// FuzzPay takes the body of a PAY message of the account way, after its kind and way.
func FuzzPay(f *testing.F) {
	for _, b := range [][]byte{payBody(payClaim, 1), payBody(payConfirm, int64(maxCumulative)-1), payBody(payClaim, 0), payBody(3, 5), {}, {payClaim}} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		what, cum, err := parsePay(b)
		if err != nil {
			return
		}
		if cum <= 0 || what != payClaim && what != payConfirm {
			t.Errorf("pay %x is %d of %d", b, what, cum)
		}
		if !bytes.Equal(payBody(what, cum), b) {
			t.Errorf("pay %x does not come back", b)
		}
	})
}

func TestOwed(t *testing.T) {
	for _, c := range []struct {
		cells wire.Cells
		tier  wire.Tier
		want  Amount
	}{
		{0, 5, 0}, {1 << 20, 0, 0}, {1 << 20, 1, 1_000_000}, {1<<20 - 1, 1, 999_999}, {1, 1, 0}, {2, 1, 1}, {1 << 20, 63, 63_000_000},
		{math.MaxUint64, 255, maxAmount},
	} {
		if got := Owed(c.cells, c.tier); got != c.want {
			t.Errorf("Owed(%d, %d) = %d, want %d", c.cells, c.tier, got, c.want)
		}
	}
	for _, cells := range []wire.Cells{maxTotal - 1, 123456789012345, 1<<40 + 7} { // against math/big
		want := new(big.Int).Mul(new(big.Int).SetUint64(uint64(cells)), big.NewInt(63*1_000_000))
		want.Rsh(want, 20)
		if got := Owed(cells, 63); !want.IsInt64() || int64(got) != want.Int64() {
			t.Errorf("Owed(%d, 63) = %d, want %s", cells, got, want)
		}
	}
}

func TestAmount(t *testing.T) {
	for a, want := range map[Amount]string{0: "0", 1: "0.000000001", 1_500_000_000: "1.5", -20_000_000_000: "-20", math.MinInt64: "-9223372036.854775808"} {
		if got := a.String(); got != want {
			t.Errorf("%d prints as %q, want %q", int64(a), got, want)
		}
	}
	for _, c := range []struct {
		a        Amount
		decimals uint8
		token    string
	}{{5, 18, "5000000000"}, {5, 9, "5"}, {7_000, 6, "7"}, {3, 36, "3000000000000000000000000000"}, {4_000_000_000, 0, "4"}} {
		if c.a%step(c.decimals) != 0 {
			t.Errorf("%d is no multiple of step(%d) = %d", c.a, c.decimals, step(c.decimals))
		}
		n := toToken(c.a, c.decimals)
		if n.String() != c.token {
			t.Errorf("toToken(%d, %d) = %s, want %s", c.a, c.decimals, n, c.token)
		}
		if back, err := fromToken(n, c.decimals); err != nil || back != c.a {
			t.Errorf("fromToken(%s, %d) = %d, %v, want %d", n, c.decimals, back, err, c.a)
		}
	}
	if _, err := fromToken(new(big.Int).Lsh(big.NewInt(1), 200), 18); err == nil {
		t.Error("an amount beyond 63 bits was accepted")
	}
}
