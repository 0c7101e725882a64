package chaintest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"cuttle/billing"
)

// TestFunds: a neighbor whose wallet is empty is refused and told why, until its
// wallet has token and coin for fees. While the chain cannot be read nobody is
// refused for it who was not, and who was stays so.
func TestFunds(t *testing.T) {
	c := startChain(t)
	g := startGate(t, c.url)
	a, b, p := pair(t, c, g.url, nil)
	refused := func(when string) {
		t.Helper()
		eventually(t, "a is refused "+when, func() error {
			if err := p.ends[1].n.Admit(10); !errors.Is(err, billing.ErrDue) {
				return fmt.Errorf("admitted: %v", err)
			}
			_, n, err := neighbor(a.book)
			if err == nil && (n.TheirStanding != billing.Cut || !strings.Contains(n.TheirReason, "wallet")) {
				err = fmt.Errorf("told %s %q", n.TheirStanding, n.TheirReason)
			}
			return err
		})
	}
	served := func(when string) {
		t.Helper()
		eventually(t, "a is served "+when, func() error {
			_, n, err := neighbor(a.book)
			if err == nil && n.TheirStanding != billing.Active {
				err = fmt.Errorf("told %s %q", n.TheirStanding, n.TheirReason)
			}
			return errors.Join(err, p.ends[1].n.Admit(10))
		})
	}
	some := big.NewInt(5e16) // 0.05 token
	refused("with an empty wallet")
	c.fund(a.wallet.Address(), new(big.Int), some)
	refused("without coin for a fee")
	c.fund(a.wallet.Address(), ether(1), new(big.Int))
	served("with both")

	// It owes more than it holds by now, and nobody can look.
	blind := func() {
		t.Helper()
		g.shut.Store(true)
		eventually(t, "b knows that it cannot look", func() error { // so no look is under way
			r, err := b.book.Report(context.Background())
			if err == nil && !strings.Contains(strings.Join(r.Problems, "\n"), "chain cannot be asked") {
				err = fmt.Errorf("problems %q", r.Problems)
			}
			return err
		})
	}
	blind()
	p.use(billing.WePay, 30, 2*mega) // 0.06 token
	eventually(t, "it is owed", func() error {
		_, n, err := neighbor(b.book)
		if err == nil && n.TheyOwe < 60_000_000 {
			err = fmt.Errorf("owed %v", n.TheyOwe)
		}
		return err
	})
	if err := p.ends[1].n.Admit(10); err != nil {
		t.Errorf("refused although the chain cannot be read: %v", err)
	}
	g.shut.Store(false)
	refused("when it owes more than it holds")
	blind()
	c.fund(a.wallet.Address(), new(big.Int), some)
	refused("while nobody sees the new money")
	g.shut.Store(false)
	served("when b has seen it")
}

// liar answers one method by itself and passes the rest on.
func liar(tb testing.TB, target, method, result string) string {
	tb.Helper()
	u, err := url.Parse(target)
	if err != nil {
		tb.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(u)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		var q struct {
			ID     json.RawMessage
			Method string
		}
		if json.Unmarshal(body, &q) == nil && q.Method == method {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":%s}`, q.ID, result)
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		proxy.ServeHTTP(w, r)
	}))
	tb.Cleanup(srv.Close)
	return srv.URL
}

// TestLyingEndpoint: with a lying endpoint in front of two honest ones a payment
// is made and credited as ever, and the user is told who lies.
func TestLyingEndpoint(t *testing.T) {
	const logs = `[]`
	const receipt = `null`
	for _, x := range []struct{ name, method, result string }{
		{"no payments", "eth_getLogs", logs},
		{"never mined", "eth_getTransactionReceipt", receipt},
		{"rich", "eth_getBalance", `"0xffffffffffffffff"`},
	} {
		t.Run(x.name, func(t *testing.T) {
			c := startChain(t)
			lies, first, second := liar(t, c.url, x.method, x.result), startGate(t, c.url), startGate(t, c.url)
			a, b, p := pair(t, c, lies, func(s *setup) { s.more = []string{first.url, second.url} })
			c.fund(a.wallet.Address(), ether(1), ether(1))
			defer c.mine()()
			p.use(billing.WePay, 10, mega)
			settle(t, a.book)
			settled(t, a, b, 1)
			if got := c.balance(b.earning); got.Cmp(big.NewInt(1e16)) != 0 {
				t.Errorf("b holds %s, want 1e16", got)
			}
			var again time.Time
			eventually(t, "the liar is named", func() error {
				// It is not asked of each payment: one that was slow comes last for a while.
				if time.Now().After(again) {
					again = time.Now().Add(2 * time.Second)
					p.use(billing.WePay, 1, mega)
					ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
					defer cancel()
					if err := a.book.Settle(ctx); err != nil {
						return err
					}
				}
				ra, _, err := neighbor(a.book)
				rb, _, err2 := neighbor(b.book)
				all := strings.Join(append(ra.Problems, rb.Problems...), "\n")
				if !strings.Contains(all, lies+" is set aside") {
					return errors.Join(err, err2, fmt.Errorf("problems %q", all))
				}
				return nil
			})
		})
	}
}
