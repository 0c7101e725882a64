package billing

import (
	"context"
	"errors"
	"fmt"
	"strconv"
)

// Finding is an invariant that does not hold.
type Finding struct {
	What string `json:"what"` // in words
	At   string `json:"at"`   // the first row of which it is untrue
}

// invariant is a rule of which a query gives the first row that breaks it.
type invariant struct{ what, query string }

// hold refuses a ledger in which one of the list does not.
func (x *tx) hold(list []invariant) error {
	for _, v := range list {
		var at string
		found, err := x.one(v.query, nil, &at)
		if err != nil {
			return fmt.Errorf("check ledger: %w", err)
		}
		if found {
			return damaged(v.what, at)
		}
	}
	return nil
}

func damaged(what, at string) error {
	return fmt.Errorf("ledger is damaged: %s (%s): nothing will be charged or paid from it, and nothing in it was changed; put back the newest backup that `cuttle ledger verify FILE` finds whole", what, at)
}

// soundness is what is asked of a file before it is opened to write.
var soundness = []invariant{
	{"the file is damaged", "SELECT quick_check FROM pragma_quick_check WHERE quick_check <> 'ok' LIMIT 1"},
	{"a reference points nowhere", `SELECT "table" FROM pragma_foreign_key_check LIMIT 1`},
}

// invariants hold in every ledger at every moment, beside what verify checks
// first. A query gives the first row that breaks one. way 2 is WayAccount.
var invariants = []invariant{
	{"all accounts together do not sum to zero", "SELECT sum(amount) FROM posting HAVING sum(amount) <> 0"},
	{"fees of the chain are mixed with the token", "SELECT sum(amount) FROM posting WHERE account IN ('fees', 'coin') HAVING sum(amount) <> 0"},
	{"a journal entry moves nothing", "SELECT id FROM journal WHERE NOT EXISTS (SELECT 1 FROM posting WHERE journal = journal.id) LIMIT 1"},
	{"a lot is open by more than it had", "SELECT id FROM lot WHERE open < 0 OR open > amount LIMIT 1"},
	{"more cells are proven than agreed", "SELECT neighbor FROM total WHERE proven < 0 OR proven > cells LIMIT 1"},
	{"a payment is in a block by a transaction that was never signed", `
		SELECT id FROM intent WHERE tx IS NOT NULL AND NOT EXISTS (SELECT 1 FROM attempt WHERE intent = intent.id AND hash = intent.tx) LIMIT 1`},
	{"a nonce of a wallet is neither a payment's nor another program's, or both", `
		SELECT hex(wallet) || ' ' || first FROM (SELECT wallet, first, lag(last) OVER (PARTITION BY wallet ORDER BY first, last) AS before FROM (
			SELECT wallet, nonce AS first, nonce AS last FROM intent WHERE nonce IS NOT NULL UNION ALL SELECT wallet, nonce, nonce FROM call WHERE nonce IS NOT NULL
			UNION ALL SELECT wallet, first, last FROM skipped)) WHERE first <> before + 1 LIMIT 1`},
	{"a fee is not booked as it was", `
		SELECT payment FROM (SELECT id AS payment, state, fee FROM intent UNION ALL SELECT -id, state, fee FROM call)
		LEFT JOIN (SELECT CAST(substr(j.ref, 1, instr(j.ref, '/') - 1) AS INTEGER) AS booked, sum(p.amount) AS posted
			FROM journal j JOIN posting p ON p.journal = j.id WHERE j.kind = 'fee' AND p.account = 'fees' GROUP BY 1) ON booked = payment
		WHERE (fee IS NULL AND state IN (4, 5)) OR fee <> coalesce(posted, 0) LIMIT 1`},
	{"fees of payments do not sum to their account", `
		SELECT d FROM (SELECT (SELECT coalesce(sum(fee), 0) FROM intent) + (SELECT coalesce(sum(fee), 0) FROM call)
			- (SELECT coalesce(sum(amount), 0) FROM posting WHERE account = 'fees') AS d) WHERE d <> 0`},
	{"what a wallet was seen to hold is not what came in less what went out", `
		SELECT hex(wallet) FROM cash WHERE balance + moved <> (SELECT coalesce(sum(p.amount), 0) FROM journal j JOIN posting p ON p.journal = j.id
			WHERE j.kind IN ('funded', 'withdrawn') AND j.ref LIKE lower(hex(cash.wallet)) || '/%' AND p.account = 'wallet') LIMIT 1`},
	{"a payment received was not booked as it came", `
		SELECT hex(tx) FROM receipt WHERE amount > 0
		AND NOT EXISTS (SELECT 1 FROM posting WHERE journal = receipt.entry AND account = 'received' AND posting.amount = receipt.amount) LIMIT 1`},
	{"payments received do not sum to what was booked for them", `
		SELECT d FROM (SELECT (SELECT coalesce(sum(amount), 0) FROM receipt)
			- (SELECT coalesce(sum(p.amount), 0) FROM posting p JOIN journal j ON j.id = p.journal WHERE p.account = 'received' AND j.kind IN ('receipt', 'reversal')) AS d) WHERE d <> 0`},
	{"payments of unknown wallets do not sum to their account", `
		SELECT d FROM (SELECT (SELECT coalesce(sum(amount), 0) FROM receipt WHERE neighbor IS NULL)
			+ (SELECT coalesce(sum(amount), 0) FROM posting WHERE account = 'unallocated') AS d) WHERE d <> 0`},
	{"what a neighbor says it has paid is not what was booked", `
		SELECT id FROM neighbor n WHERE (SELECT coalesce(sum(cum), 0) FROM promise WHERE neighbor = n.id AND dir = 1 AND way = 2)
			<> (SELECT coalesce(-sum(p.amount), 0) FROM posting p JOIN journal j ON j.id = p.journal WHERE p.neighbor = n.id AND p.account = 'receivable' AND j.kind = 'account') LIMIT 1`},
	{"what a neighbor has confirmed is not what was booked as paid", `
		SELECT id FROM neighbor n WHERE (SELECT coalesce(sum(acked), 0) FROM promise WHERE neighbor = n.id AND dir = 0 AND way = 2)
			<> (SELECT coalesce(sum(p.amount), 0) FROM posting p JOIN journal j ON j.id = p.journal WHERE p.neighbor = n.id AND p.account = 'transit' AND j.kind = 'settled') LIMIT 1`},
}

// findings lists what does not hold. A file that cannot be read to its end is an
// error, not a finding.
func (x *tx) findings() (out []Finding, err error) {
	if err := x.verify(); err != nil {
		out = append(out, Finding{What: err.Error()})
	}
	for _, v := range invariants {
		var at string
		found, err := x.one(v.query, nil, &at)
		if err != nil {
			return out, fmt.Errorf("check ledger: %w", err)
		}
		if found {
			out = append(out, Finding{v.what, at})
		}
	}
	return out, nil
}

// check refuses a ledger of which anything does not hold; that it is sound is
// known.
func (x *tx) check() error { return errors.Join(x.consistent(), x.hold(invariants)) }

// SchemaError says that a ledger file is of another schema than this program's.
type SchemaError struct{ Have, Want int }

func (e *SchemaError) Error() string {
	if e.Have < e.Want {
		return fmt.Sprintf("schema is %d, this program checks %d: cuttled of this version brings it there when it starts; a copy is brought there by `cuttle ledger adopt`", e.Have, e.Want)
	}
	return fmt.Sprintf("schema is %d, this program knows 1 to %d: use the program that wrote the file, or a newer one", e.Have, e.Want)
}

// Verified is what Verify has looked at and found.
type Verified struct {
	Schema    string    `json:"ledger_schema"`
	Neighbors int       `json:"neighbors"`
	Entries   int       `json:"entries"` // of the journal
	Findings  []Finding `json:"findings"`
}

// Verify checks every invariant that a ledger file can show by itself; the
// Findings are empty if all hold. What the chain says is not asked. A file of
// another schema is a *SchemaError.
func (f *File) Verify(ctx context.Context) (v Verified, err error) {
	v.Findings = []Finding{}
	err = f.view(ctx, func(tx *tx) error {
		if _, err := tx.one("SELECT value, (SELECT count(*) FROM neighbor), (SELECT count(*) FROM journal) FROM meta WHERE key = 'schema'", nil, &v.Schema, &v.Neighbors, &v.Entries); err != nil {
			return err
		}
		if have, err := strconv.Atoi(v.Schema); err != nil || have != schemaVersion() {
			return errors.Join(err, &SchemaError{have, schemaVersion()})
		}
		all, err := tx.findings()
		v.Findings = append(v.Findings, all...)
		return err
	})
	if err != nil {
		err = fmt.Errorf("ledger %s: %w", f.path, err)
	}
	return v, errors.Join(err)
}
