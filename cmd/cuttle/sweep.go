package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cuttle/billing"
	"cuttle/billing/evm"
	"cuttle/billing/wallet"
	"cuttle/internal/config"
	"cuttle/internal/control"
)

const sweepTime = 10 * time.Minute // for both transactions to get into blocks

func (w *purse) balanceCommand() *cobra.Command {
	var direct bool
	c := &cobra.Command{Use: "balance", Short: "what both wallets hold, asked of the chain now", RunE: func(c *cobra.Command, _ []string) error {
		b, err := w.balances(c.Context(), direct)
		if err != nil {
			return err
		}
		return w.a.show(b, func(p *page) {
			p.facts([2]string{"chain", fmt.Sprint(b.ChainID)}, [2]string{"token", b.Token})
			var rows []string
			for _, x := range b.Wallets {
				rows = append(rows, cells(x.Purpose, x.Address, x.Token, x.Gas))
			}
			p.section("WALLET\tADDRESS\tTOKEN\tGAS", rows)
		})
	}}
	c.Flags().BoolVar(&direct, "direct", false, "ask the RPC endpoint from here even if the daemon would ask through circuits; it sees this machine's address")
	return c
}

// balances asks the daemon, or the chain itself if no daemon runs.
func (w *purse) balances(ctx context.Context, direct bool) (control.Balances, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	defer w.a.waitFor("the chain answers")()
	if d, err := control.Dial(w.a.socket); err == nil && w.file == "" && !direct {
		if b, err := d.Balances(ctx); !errors.Is(err, control.ErrNotRunning) {
			return b, err
		}
	}
	cfg, err := w.settings()
	if err != nil {
		return control.Balances{}, err
	}
	client, err := chainClient(cfg, direct)
	if err != nil {
		return control.Balances{}, err
	}
	defer client.Close()
	consuming, err := wallet.Peek(w.where(cfg))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return control.Balances{}, err
	}
	var earning evm.Address
	if cfg.Billing.Earning != "" {
		if earning, _, err = wallet.Earning(cfg.Billing.Earning, consuming, false); err != nil {
			return control.Balances{}, fmt.Errorf("billing.earning: %w", err)
		}
	}
	if consuming == earning { // both zero
		return control.Balances{}, errors.New("there is neither a consuming wallet nor an earning address: make one with `cuttle wallet new`")
	}
	all, err := billing.AskBalances(ctx, client, consuming, earning)
	if err != nil {
		return control.Balances{}, err
	}
	out := control.Balances{Schema: control.Schema, ChainID: client.ChainID(), Token: client.Token().Hex()}
	for _, x := range all {
		out.Wallets = append(out.Wallets, control.Wallet{Purpose: x.Purpose, Address: x.Address, Token: x.Token, Gas: x.Gas, Checked: x.At.Unix()})
	}
	return out, nil
}

// chainClient is the way to the configured chain from this process.
func chainClient(cfg *config.Config, direct bool) (*evm.Client, error) {
	b := &cfg.Billing
	if len(b.RPC) == 0 {
		return nil, errors.New("billing.rpc is empty: name a JSON-RPC endpoint of the chain in the configuration")
	}
	if b.RPCThroughCircuits && !direct {
		return nil, errors.New("billing.rpc_through_circuits is set, and this would ask the endpoint past them, which then sees this machine's address: " +
			"start cuttled, or say --direct")
	}
	token, err := evm.ParseAddress(b.Token)
	if err != nil {
		return nil, fmt.Errorf("billing.token: %w", err)
	}
	return evm.NewClient(evm.ClientConfig{Endpoints: b.RPC, ChainID: b.ChainID, Token: token})
}

// swept is what wallet sweep prints.
type swept struct {
	Schema int    `json:"schema"`
	From   string `json:"from"`
	To     string `json:"to"`
	Chain  uint64 `json:"chain_id"`
	Token  string `json:"token"`     // amount, decimal
	Fee    string `json:"token_fee"` // at most, in the chain's coin
	Coin   string `json:"coin"`      // about
	Coins  string `json:"coin_fee"`
	Sent   []sent `json:"sent"`
}

type sent struct {
	What string `json:"what"` // "token" or "coin"
	Tx   string `json:"tx"`
}

func (w *purse) sweepCommand() *cobra.Command {
	var to string
	var yes, direct bool
	c := &cobra.Command{Use: "sweep --to ADDRESS", Short: "send all of a wallet's token, and the rest of the chain's coin, to another address",
		RunE: func(c *cobra.Command, _ []string) error {
			target, unchecked, err := wallet.Earning(to, evm.Address{}, true)
			if err != nil {
				return usageError{fmt.Errorf("sweep --to: %s", strings.TrimPrefix(err.Error(), "earning "))} //nolint:errorlint // reworded
			}
			if unchecked {
				fmt.Fprintf(w.a.errOut, "The address has no checksum, so a typing error would not be noticed. With it: %s\n", target.Hex())
			}
			return w.sweep(c.Context(), target, yes, direct)
		}}
	c.Flags().StringVar(&to, "to", "", "where it goes")
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	c.Flags().BoolVar(&direct, "direct", false, "ask the RPC endpoint from here even if the daemon would ask through circuits; it sees this machine's address")
	return c
}

// sweep empties a wallet that nobody else uses now.
func (w *purse) sweep(ctx context.Context, to evm.Address, yes, direct bool) error {
	cfg, err := w.settings()
	if err != nil {
		return err
	}
	path := w.where(cfg)
	held, err := wallet.Lock(path) // no daemon starts with it meanwhile
	if err != nil {
		return err
	}
	defer held.Release()
	open, err := w.open(ctx, cfg, path)
	if err != nil {
		return err
	}
	if err := w.idle(ctx, cfg, open.Address()); err != nil {
		return err
	}
	client, err := chainClient(cfg, direct)
	if err != nil {
		return err
	}
	defer client.Close()
	wei, err := config.Wei(cfg.Billing.FeeCap)
	if err != nil {
		return fmt.Errorf("billing.fee_cap: %w", err)
	}
	fees := evm.PaymentConfig{MaxFee: big.NewInt(wei)}
	plan, err := client.PlanSweep(ctx, open.Address(), to, fees)
	if err != nil {
		return err
	}
	s := w.planned(client, plan)
	if plan.Token.Sign() == 0 && plan.Coin.Sign() == 0 {
		return fmt.Errorf("wallet %s has nothing to send on chain %d", s.From, s.Chain)
	}
	fmt.Fprintf(w.a.errOut, "From  %s on chain %d\nTo    %s\nToken %s of %s, fee at most %s\nCoin  about %s, fee about %s\n",
		s.From, s.Chain, s.To, s.Token, client.Token().Hex(), s.Fee, s.Coin, s.Coins)
	if plan.Contract {
		fmt.Fprintln(w.a.errOut, "The target is a contract: be sure that it can send on what it gets.")
	}
	if !yes {
		ok, err := w.asker().yes(ctx, "Nothing brings it back.")
		if err != nil {
			return err
		}
		if !ok {
			return errors.New("not confirmed: nothing was sent")
		}
	}
	ctx, cancel := context.WithTimeout(ctx, sweepTime)
	defer cancel()
	err = client.Sweep(ctx, open, plan, fees, func(what string, tx evm.Hash) {
		fmt.Fprintf(w.a.errOut, "%s: %s\n", what, tx.Hex())
		if name, ok := strings.CutSuffix(what, " sent"); ok {
			s.Sent = append(s.Sent, sent{name, tx.Hex()})
		}
	})
	if err != nil {
		return err
	}
	return w.a.show(s, func(p *page) { p.line("The wallet is empty.") })
}

func (w *purse) planned(client *evm.Client, plan *evm.Sweep) swept {
	s := swept{Schema: control.Schema, From: plan.From.Hex(), To: plan.To.Hex(), Chain: client.ChainID(), Token: client.Format(plan.Token),
		Fee: "0", Coin: evm.FormatCoin(plan.Coin), Coins: evm.FormatCoin(plan.CoinFee), Sent: []sent{}}
	if plan.TokenFee != nil {
		s.Fee = evm.FormatCoin(plan.TokenFee)
	}
	return s
}

// idle refuses a wallet that the daemon uses, or from which payments are on their
// way: their nonces would collide with ours. The lock sees one file on one
// machine; the daemon may have opened another copy.
func (w *purse) idle(ctx context.Context, cfg *config.Config, address evm.Address) error {
	if d, err := control.Dial(w.a.socket); err == nil {
		ask, cancel := context.WithTimeout(ctx, askTimeout)
		l, err := d.Ledger(ask)
		cancel()
		if err == nil {
			for _, x := range l.Wallets {
				if x.Purpose == "consuming" && strings.EqualFold(x.Address, address.Hex()) {
					return fmt.Errorf("cuttled pays from wallet %s: stop it first, so that the two do not use the same nonces", address.Hex())
				}
			}
		}
	}
	path := filepath.Join(cfg.Node.State, "ledger.db")
	f, err := billing.OpenFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	n, err := f.UnderWay(ctx, address)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if n > 0 {
		return fmt.Errorf("%d payments from wallet %s are on their way (%s): start cuttled until they are confirmed, then stop it and try again", n, address.Hex(), path)
	}
	return nil
}
