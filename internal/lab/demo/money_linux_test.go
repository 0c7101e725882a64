package demo

import (
	"bytes"
	"errors"
	"fmt"
	"math/big"
	"os"
	"strings"
	"testing"

	"cuttle/internal/control"
	"cuttle/internal/lab"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if ours, err := lab.Hidden(os.Args, os.Stdout, os.Stderr); ours {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

func same(s string) string { return s }

// honest are the books of two neighbors after a million cells for which a pays
// tier 4, of which most is settled.
func honest() (books, []lab.Transfer) {
	const sent, received = 400_000, 600_000 // 1,000,000 * 4 * 1,000,000 >> 20 = 3,814,697 units
	pay := func(direction string) control.Payment {
		return control.Payment{Direction: direction, State: control.PaymentConfirmed, Units: "3800000", Tx: "0xAB", Block: 7}
	}
	b := books{
		"a": {Accounts: []control.Account{{
			Node: "b", Agreed: true, OwedUnits: "14697", DueUnits: "0", Payments: []control.Payment{pay("out")},
			Tallies: []control.Tally{{Direction: "sent", Payer: "we", Tier: 4, Ours: sent, Theirs: sent}, {Direction: "received", Payer: "we", Tier: 4, Ours: received, Theirs: received}},
		}}},
		"b": {Accounts: []control.Account{{
			Node: "a", Agreed: true, OwedUnits: "0", DueUnits: "14697", Payments: []control.Payment{pay("in")},
			Tallies: []control.Tally{{Direction: "received", Payer: "they", Tier: 4, Ours: sent, Theirs: sent}, {Direction: "sent", Payer: "they", Tier: 4, Ours: received, Theirs: received}},
		}}},
	}
	value := new(big.Int).Mul(big.NewInt(3_800_000), unitWei)
	return b, []lab.Transfer{
		{Tx: "0xfund", Block: 1, From: "0xfaucet", To: "0xa1", Value: value},
		{Tx: "0xab", Block: 7, From: "0xa1", To: "0xb2", Value: value},
	}
}

// purses gives node a the wallets 0xa1 (paying) and 0xa2 (earning).
func purses(node string) (string, string) {
	return "0x" + strings.ToUpper(node) + "1", "0x" + node + "2"
}

func TestHonestBooksHold(t *testing.T) {
	b, transfers := honest()
	edges := b.edges(same)
	if len(edges) != 1 || !edges[0].equal || !edges[0].fit || edges[0].billed != (units{3_814_697, 0}) || edges[0].total() != 1_000_000 {
		t.Errorf("edges = %+v", edges)
	}
	list := b.payments(transfers, 10, same, purses)
	if len(list) != 1 || !list[0].ok || list[0].depth != 4 || list[0].block != 7 {
		t.Errorf("payments = %+v", list)
	}
}

// Whatever is wrong must show: a demo that cannot fail proves nothing.
func TestWrongBooksShow(t *testing.T) {
	for name, change := range map[string]func(books){
		"one cell more":       func(b books) { b["b"].Accounts[0].Tallies[0].Ours++ },
		"another tier":        func(b books) { b["b"].Accounts[0].Tallies[0].Tier++ },
		"not agreed":          func(b books) { b["a"].Accounts[0].Agreed = false },
		"nobody pays":         func(b books) { b["a"].Accounts[0].Tallies[0].Payer = "they" },
		"forgets a debt":      func(b books) { b["a"].Accounts[0].OwedUnits = "14696" },
		"claims too much":     func(b books) { b["b"].Accounts[0].DueUnits = "14698" },
		"garbage":             func(b books) { b["a"].Accounts[0].OwedUnits = "much" },
		"no account":          func(b books) { delete(b, "b"); b["b"] = control.Ledger{} },
		"forgets the payment": func(b books) { b["a"].Accounts[0].Payments = nil },
		"not credited":        func(b books) { b["b"].Accounts[0].Payments = nil },
	} {
		b, _ := honest()
		change(b)
		edges := b.edges(same)
		if len(edges) != 1 || edges[0].equal && edges[0].fit {
			t.Errorf("%s: %+v passes", name, edges)
		}
	}
	for name, change := range map[string]func(books, []lab.Transfer){
		"not on the chain":      func(_ books, tr []lab.Transfer) { tr[1].Tx = "0xcd" },
		"another amount":        func(_ books, tr []lab.Transfer) { tr[1].Value = big.NewInt(1) },
		"another payee":         func(_ books, tr []lab.Transfer) { tr[1].To = "0xc2" },
		"not final":             func(b books, _ []lab.Transfer) { b["a"].Accounts[0].Payments[0].State = control.PaymentPending },
		"not credited":          func(b books, _ []lab.Transfer) { b["b"].Accounts[0].Payments[0].State = control.PaymentPending },
		"credited as different": func(b books, _ []lab.Transfer) { b["b"].Accounts[0].Payments[0].Units = "1" },
	} {
		b, transfers := honest()
		change(b, transfers)
		list := b.payments(transfers, 10, same, purses)
		if len(list) == 0 || list[0].ok {
			t.Errorf("%s: %+v passes", name, list)
		}
	}
	b, transfers := honest()
	twice := append(transfers, lab.Transfer{Tx: "0xee", From: "0xa1", To: "0xb2", Value: big.NewInt(1)})
	if list := b.payments(twice, 10, same, purses); len(list) != 2 || list[1].ok {
		t.Errorf("a transfer that is in nobody's books passes: %+v", list)
	}
}

func TestTableFailsWithItsLines(t *testing.T) {
	var none table
	if !errors.Is(none.err(), ErrFailed) {
		t.Error("an empty table holds")
	}
	var tb table
	tb.add("path", true, "a > b")
	tb.add("link", true, "x")
	tb.add("link", true, "y")
	if err := tb.err(); err != nil {
		t.Errorf("a table that holds gives %v", err)
	}
	tb.add("capture", false, "leak")
	var out bytes.Buffer
	if err := tb.print(&out); err != nil || !errors.Is(tb.err(), ErrFailed) {
		t.Errorf("print %v, err %v", err, tb.err())
	}
	want := "ok    path     a > b\nok    link     x\nok             y\nFAIL  capture  leak\n"
	if out.String() != want {
		t.Errorf("table is\n%s want\n%s", out.String(), want)
	}
}

func TestWriting(t *testing.T) {
	for units, want := range map[int64]string{0: "0", 1: "0.000000001", 1_000_000_000: "1", 1_500_000_000: "1.5", 313_976: "0.000313976"} {
		if got := token(units); got != want {
			t.Errorf("token(%d) = %q, want %q", units, got, want)
		}
	}
	for n, want := range map[uint64]string{5: "5 B", 1500: "1.5 kB", 100_000_000: "100.0 MB", 2_500_000_000: "2.50 GB"} {
		if got := size(n); got != want {
			t.Errorf("size(%d) = %q, want %q", n, got, want)
		}
	}
	if got := digestIn("HTTP/1.1 200 OK\r\nX-Sha256: abc\r\n"); got != "abc" {
		t.Errorf("digestIn = %q, want abc", got)
	}
}
