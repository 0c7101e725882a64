package demo

import (
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"

	"cuttle/internal/control"
	"cuttle/internal/lab"
	"cuttle/relay/wire"
)

// unitWei is a ledger unit (1e-9 token) in the token's smallest unit: the lab's
// token has 18 decimals.
var unitWei = big.NewInt(1_000_000_000)

// books are all ledgers at about one moment, by the lab's names.
type books map[string]control.Ledger

// account finds what a node has noted about another.
func (b books) account(node, about string, name func(string) string) (control.Account, bool) {
	for _, a := range b[node].Accounts {
		if name(a.Node) == about {
			return a, true
		}
	}
	return control.Account{}, false
}

// tally is a count of cells by who pays at which tier and which way they went,
// seen from one end.
type tally struct {
	sent  bool
	wePay bool
	tier  uint8
}

// counts gathers an account's own numbers; mirrored turns them around, so that
// both ends' should be the same map.
func counts(a control.Account, mirrored bool) map[tally]uint64 {
	m := make(map[tally]uint64)
	for _, t := range a.Tallies {
		if t.Ours > 0 {
			m[tally{(t.Direction == "sent") != mirrored, (t.Payer == "we") != mirrored, t.Tier}] += t.Ours
		}
	}
	return m
}

// edge is what two neighbors have exchanged, seen from a.
type edge struct {
	a, b   string
	cells  map[tally]uint64
	equal  bool  // both have the same numbers and say so
	billed units // what the payer of each direction owes by protocol, a to b and b to a
	open   units
	paid   units
	fit    bool // billed = paid + open in the books of both
}

// units are ledger units, what a owes b and what b owes a.
type units [2]int64

// edges compares the books of every pair of neighbors that exchanged a cell.
func (b books) edges(name func(string) string) []edge {
	var list []edge
	nodes := slices.Sorted(maps.Keys(b))
	for i, one := range nodes {
		for _, two := range nodes[i+1:] {
			ofOne, ok1 := b.account(one, two, name)
			ofTwo, ok2 := b.account(two, one, name)
			if !ok1 && !ok2 {
				continue
			}
			e := edge{a: one, b: two, cells: counts(ofOne, false)}
			other := counts(ofTwo, true)
			if len(e.cells) == 0 && len(other) == 0 {
				continue
			}
			e.equal = ok1 && ok2 && maps.Equal(e.cells, other) && ofOne.Agreed && ofTwo.Agreed
			e.billed = bill(e.cells)
			e.settle(ofOne, ofTwo)
			list = append(list, e)
		}
	}
	return list
}

// bill applies the price of docs/protocol.md section 7: cells * tier *
// 1,000,000 / 2^20 units, rounded down over the whole count of a tier.
func bill(cells map[tally]uint64) units {
	perTier := make(map[tally]uint64) // both directions of a payer and tier together
	for t, n := range cells {
		perTier[tally{wePay: t.wePay, tier: t.tier}] += n
	}
	var u units
	for t, n := range perTier {
		price := new(big.Int).Mul(new(big.Int).SetUint64(n), big.NewInt(int64(t.tier)*1_000_000))
		price.Rsh(price, 20)
		if t.wePay {
			u[0] += price.Int64()
		} else {
			u[1] += price.Int64()
		}
	}
	return u
}

// settle compares the bill with what both ends say is paid and open.
func (e *edge) settle(ofA, ofB control.Account) {
	e.open = units{parse(ofA.OwedUnits), parse(ofB.OwedUnits)}
	e.paid = units{sum(ofA, "out"), sum(ofB, "out")}
	received := units{sum(ofB, "in"), sum(ofA, "in")}
	due := units{parse(ofB.DueUnits), parse(ofA.DueUnits)}
	e.fit = true
	for i := range e.billed {
		e.fit = e.fit && e.paid[i]+e.open[i] == e.billed[i] && received[i]+due[i] == e.billed[i]
	}
}

// sum adds up payments of one direction that are not lost.
func sum(a control.Account, direction string) int64 {
	var n int64
	for _, p := range a.Payments {
		if p.Direction == direction && p.State != control.PaymentFailed && (direction == "out" || p.State == control.PaymentConfirmed) {
			n += parse(p.Units)
		}
	}
	return n
}

// parse reads units; what is no number is refused by being absurd.
func parse(s string) int64 {
	n, ok := new(big.Int).SetString(s, 10)
	if !ok || !n.IsInt64() {
		return -1 << 62
	}
	return n.Int64()
}

func (e edge) total() (cells uint64) {
	for _, n := range e.cells {
		cells += n
	}
	return cells
}

// bytes is what the cells are long.
func (e edge) bytes() uint64 { return e.total() * wire.BodySize }

// payment is one on-chain settlement as payer, payee and chain have it.
type payment struct {
	from, to string
	units    int64
	tx       string
	block    uint64
	depth    uint64 // confirmations by the chain
	ok       bool
	wrong    string
}

// payments checks every payment in the books against the chain and the chain's
// transfers against the books. wallets gives a node's consuming and earning
// address; source is whoever funded the wallets.
func (b books) payments(transfers []lab.Transfer, newest uint64, name func(string) string, wallets func(string) (string, string)) []payment {
	onChain := make(map[string]lab.Transfer)
	ours := make(map[string]bool) // addresses that pay in this lab
	for node := range b {
		consuming, _ := wallets(node)
		ours[strings.ToLower(consuming)] = true
	}
	for _, t := range transfers {
		if ours[t.From] {
			onChain[strings.ToLower(t.Tx)] = t
		}
	}
	var list []payment
	for _, node := range slices.Sorted(maps.Keys(b)) {
		for _, a := range b[node].Accounts {
			for _, p := range a.Payments {
				if p.Direction != "out" {
					continue
				}
				entry := payment{from: node, to: name(a.Node), units: parse(p.Units), tx: p.Tx}
				t, ok := onChain[strings.ToLower(p.Tx)]
				delete(onChain, strings.ToLower(p.Tx))
				entry.check(p, t, ok, newest, b, name, wallets)
				list = append(list, entry)
			}
		}
	}
	for tx, t := range onChain {
		list = append(list, payment{from: t.From, to: t.To, tx: tx, block: t.Block, wrong: "on the chain, but in nobody's books"})
	}
	return list
}

// check fills in what the chain says and whether all three agree.
func (p *payment) check(noted control.Payment, t lab.Transfer, found bool, newest uint64, b books, name func(string) string, wallets func(string) (string, string)) {
	consuming, _ := wallets(p.from)
	_, earning := wallets(p.to)
	switch {
	case !found:
		p.wrong = "not on the chain"
	case !strings.EqualFold(t.From, consuming) || !strings.EqualFold(t.To, earning):
		p.wrong = "between other wallets on the chain"
	case t.Value.Cmp(new(big.Int).Mul(big.NewInt(p.units), unitWei)) != 0:
		p.wrong = "another amount on the chain"
	case noted.State != control.PaymentConfirmed:
		p.wrong = "not final for the payer: " + string(noted.State)
	case !b.credited(p.to, p.from, p.tx, noted.Units, name):
		p.wrong = "not credited by the payee"
	default:
		p.ok = true
	}
	if found {
		p.block, p.depth = t.Block, newest-t.Block+1
	}
}

// credited tells whether node has booked the payment as received.
func (b books) credited(node, from, tx, units string, name func(string) string) bool {
	a, ok := b.account(node, from, name)
	return ok && slices.ContainsFunc(a.Payments, func(p control.Payment) bool {
		return p.Direction == "in" && p.State == control.PaymentConfirmed && strings.EqualFold(p.Tx, tx) && p.Units == units
	})
}

// token writes ledger units as token.
func token(u int64) string {
	s := fmt.Sprintf("%d.%09d", u/1_000_000_000, u%1_000_000_000)
	return strings.TrimSuffix(strings.TrimRight(s, "0"), ".")
}
