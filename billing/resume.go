package billing

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"cuttle/billing/evm"
)

// Resume errors.
var (
	// ErrNoWallet says that nothing is paid from here.
	ErrNoWallet = errors.New("there is no consuming wallet")
	// ErrNotStopped says that there is nothing to resume.
	ErrNotStopped = errors.New("no other program has used the wallet")
	// ErrNotAsShown says that other transactions are lost than a human was shown.
	ErrNotAsShown = errors.New("what was lost to another program is not what was shown")
)

// Taken is one of our transactions whose nonce another program has used.
type Taken struct {
	Nonce  uint64
	Tx     string // ours, the newest attempt
	Payee  string // EIP-55; the contract, for a call
	Amount string // token that was to move, decimal
	Call   bool   // a call that channels need, not a payment
}

// Taken lists our transactions that were lost to another program and that no human
// has looked at; while there are any, nothing more is sent. digest stands for the
// list, so that Resume can be told what was shown.
func (b *Book) Taken(ctx context.Context) (out []Taken, digest string, err error) {
	d, taken, _, err := b.stopped(ctx)
	if err != nil {
		return nil, "", err
	}
	for i := range taken {
		out = append(out, d.lost(&taken[i]))
	}
	return out, digestOf(taken), nil
}

// lost is how people see a transaction that was lost.
func (d *direct) lost(in *evm.Intent) Taken {
	t := Taken{Nonce: in.Nonce, Payee: in.Payee.Hex(), Amount: d.cfg.Client.Format(in.Amount), Call: in.Call != nil}
	if in.Call != nil {
		t.Payee = in.Call.To.Hex()
	}
	if n := len(in.Attempts); n > 0 {
		t.Tx = in.Attempts[n-1].Hash.Hex()
	}
	return t
}

// digestOf is the SHA-256, in hexadecimal, of a list of transactions: each by where
// the ledger has it, its nonce, its amount and the hashes of all its attempts, which
// cover what else it says.
func digestOf(taken []evm.Intent) string {
	h := sha256.New()
	for i := range taken {
		in := &taken[i]
		fmt.Fprintf(h, "%d %d %s", in.ID, in.Nonce, in.Amount)
		for _, a := range in.Attempts {
			fmt.Fprintf(h, " %x", a.Hash)
		}
		fmt.Fprintln(h)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Resume lets the consuming wallet send again after another program has used its
// nonces: a human has looked at what Taken gave with this digest, nothing else was
// lost since (ErrNotAsShown), and the chain agrees (evm.ErrNotAtRest otherwise). What
// is lost while the chain is asked is not covered, and keeps the wallet stopped; what
// was shown must be as it was when the chain has answered.
// What was lost is a debt and is paid with a new nonce; calls are planned anew.
func (b *Book) Resume(ctx context.Context, digest string) error {
	d, taken, open, err := b.stopped(ctx)
	if err != nil {
		return err
	}
	if len(taken) == 0 {
		return ErrNotStopped
	}
	if digest != digestOf(taken) {
		return ErrNotAsShown
	}
	if err := d.cfg.Client.Resumable(ctx, d.cfg.Wallet.Address(), d.cfg.Payments.Confirmations, taken, open); err != nil {
		return err
	}
	err = b.ledger.update(ctx, func(tx *tx) error {
		now, err := tx.openIntents(d.cfg.Wallet.Address())
		if err != nil {
			return err
		}
		now = slices.DeleteFunc(now, func(in evm.Intent) bool {
			return in.State != evm.Superseded || !slices.ContainsFunc(taken, func(shown evm.Intent) bool { return shown.ID == in.ID })
		})
		if digest != digestOf(now) {
			return ErrNotAsShown
		}
		for _, in := range now {
			table, _, row := tables(in.ID)
			if err := tx.exec("UPDATE "+table+" SET looked_at = 1 WHERE id = ?", row); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		b.wanted.Store(true)
		b.urge()
	}
	return err
}

// stopped reads what of ours was lost to others, and what is open.
func (b *Book) stopped(ctx context.Context) (d *direct, taken, open []evm.Intent, err error) {
	if d = b.onChain(); d == nil {
		return nil, nil, nil, ErrNoChain
	}
	if d.cfg.Wallet == nil {
		return nil, nil, nil, ErrNoWallet
	}
	open, _, err = (&journal{b.ledger, d.cfg.Wallet.Address()}).OpenIntents(ctx)
	for _, in := range open {
		if in.State == evm.Superseded {
			taken = append(taken, in)
		}
	}
	open = slices.DeleteFunc(open, func(in evm.Intent) bool { return in.State == evm.Superseded })
	return d, taken, open, err
}
