package demo

import (
	"maps"
	"math/big"
	"slices"
	"strings"

	"cuttle/internal/capture"
)

// judgeMoney adds the lines about counts, debts, payments and balances.
func (r *run) judgeMoney(a account) {
	if len(a.edges) == 0 {
		r.table.add("link", false, "nobody has counted a cell")
	}
	for _, e := range a.edges {
		r.table.add("link", e.equal, "%s - %s: %d cells, %s, %s", e.a, e.b, e.total(), size(e.bytes()), said(e.equal, "the same for both", "the two do not agree"))
	}
	for _, e := range a.edges {
		for i, names := range [][2]string{{e.a, e.b}, {e.b, e.a}} {
			if e.billed[i] == 0 && e.paid[i] == 0 {
				continue
			}
			ok := e.fit && e.open[i] <= dust
			r.table.add("owed", ok, "%s to %s: %s billed = %s paid + %s open%s", names[0], names[1],
				token(e.billed[i]), token(e.paid[i]), token(e.open[i]), said(e.fit, "", " (the books of the two do not add up)"))
		}
	}
	if len(a.payments) == 0 {
		r.table.add("payment", false, "nobody has paid")
	}
	for _, p := range a.payments {
		r.table.add("payment", p.ok, "%s to %s: %s in %s, block %d, %d confirmations%s", p.from, p.to, token(p.units), p.tx, p.block, p.depth, said(p.ok, "", ": "+p.wrong))
	}
	for _, b := range a.balances {
		r.table.add("balance", b.ok, "%s: paying wallet %s, earning wallet %s%s", b.node, whole(b.consuming), whole(b.earning),
			said(b.ok, "", " (the transfers add up to something else)"))
	}
}

func said(ok bool, yes, no string) string {
	if ok {
		return yes
	}
	return no
}

// whole writes smallest units of an 18-decimals token as token.
func whole(n *big.Int) string {
	if n == nil {
		return "?"
	}
	units, rest := new(big.Int).QuoRem(n, unitWei, new(big.Int))
	if rest.Sign() != 0 || !units.IsInt64() {
		return n.String() + "e-18"
	}
	return token(units.Int64())
}

// judgeDownload adds the lines about what the client's program got.
func (r *run) judgeDownload(d download) {
	if d.err != nil {
		r.table.add("download", false, "%v", d.err)
		return
	}
	seconds := d.took.Seconds()
	r.table.add("download", d.bytes == r.cfg.Bytes, "%s by %s in %.2f s: %.1f Mbit/s through %d hops",
		size(uint64(d.bytes)), d.program, seconds, float64(d.bytes)*8/seconds/1e6, r.cfg.Options.Hops)
	r.table.add("sha256", d.digest == d.server && d.server != "", "%s, the server says %s", d.digest, said(d.digest == d.server, "the same", d.server))
}

// judgeCapture adds the verdict, and the control without which it is worth
// nothing.
func (r *run) judgeCapture(seen, control capture.Report) {
	clean := seen.Clean() && seen.Allowed > 0 && seen.Bytes > uint64(r.cfg.Bytes)
	text := "nothing but packets to its guards " + strings.Join(r.client.Neighbors, ", ") + ", none of the texts in them"
	if !clean {
		text = "NOT clean: " + describe(seen)
	}
	r.table.add("capture", clean, "%s's interface: %d frames, %s, %d of them ARP and neighbor discovery; %s", r.client.Name,
		seen.Frames, size(seen.Bytes), seen.Neighbor, text)
	var missing []string
	for _, t := range r.texts {
		if control.Found[t.Name] == 0 {
			missing = append(missing, t.Name)
		}
	}
	r.table.add("control", len(missing) == 0, "the same capture behind the exit %s", said(len(missing) == 0,
		"finds all of the texts: "+strings.Join(slices.Sorted(maps.Keys(control.Found)), ", "), "misses "+strings.Join(missing, ", ")))
}

func describe(c capture.Report) string {
	var parts []string
	if c.Foreign > 0 {
		parts = append(parts, "frames that are not for a guard: "+strings.Join(c.Examples, "; "))
	}
	if len(c.Found) > 0 {
		parts = append(parts, "texts in the clear: "+strings.Join(slices.Sorted(maps.Keys(c.Found)), ", "))
	}
	if c.Dropped > 0 || c.Cut > 0 {
		parts = append(parts, "frames that were not seen")
	}
	if c.Allowed == 0 {
		parts = append(parts, "no frame to a guard")
	}
	if len(parts) == 0 {
		parts = append(parts, "fewer bytes than were downloaded")
	}
	return strings.Join(parts, ", ")
}
