package demo

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"cuttle/internal/capture"
	"cuttle/internal/lab"
	"cuttle/internal/lab/netns"
	"cuttle/relay/wire"
)

// Config is one demo.
type Config struct {
	Options lab.Options
	Bytes   int64 // to download
}

// settleTimeout bounds the wait for payments to be final on both sides.
const settleTimeout = 60 * time.Second

// run is the demo as it goes along.
type run struct {
	cfg    Config
	lab    *lab.Lab
	client lab.Node
	out    io.Writer
	table  table
	texts  []capture.Text
	header string // what the client's program sends beside its request
	path   string // of the URL
}

// Run builds, shows, checks, prints the table and removes everything. The error
// is ErrFailed if a line of the table does not hold.
func Run(ctx context.Context, cfg Config) (err error) {
	r := &run{cfg: cfg, out: os.Stdout}
	began := time.Now()
	r.say("A network of %d relays, %d of them exits, in network namespaces; mask %s.", cfg.Options.Nodes, cfg.Options.Exits, cfg.Options.Mask)
	r.lab, err = lab.Build(ctx, cfg.Options, func(what string) { r.say("  %s", what) })
	if err != nil {
		return err
	}
	defer func() {
		r.say("Cleaning up.")
		err = r.lab.GiveUp(ctx, err)
	}()
	if err := r.show(ctx); err != nil {
		return err
	}
	r.say("")
	if err := r.table.print(r.out); err != nil {
		return err
	}
	r.say("Took %.0f seconds.", time.Since(began).Seconds())
	return r.table.err()
}

func (r *run) say(format string, args ...any) {
	_, _ = fmt.Fprintf(r.out, format+"\n", args...) // what is shown is not checked
}

// show does everything between building and the table.
func (r *run) show(ctx context.Context) error {
	if err := r.prepare(); err != nil {
		return err
	}
	r.say("Starting the relays.")
	if err := r.start(ctx, false); err != nil {
		return err
	}
	inside, outside, err := r.startCaptures()
	if err != nil {
		return err
	}
	d, paths, err := r.use(ctx)
	if err != nil {
		_, err1 := inside.Stop()
		_, err2 := outside.Stop()
		return errors.Join(err, err1, err2)
	}
	r.say("Paying: every node settles with its neighbors on the chain.")
	money, err := r.settle(ctx)
	seen, err1 := inside.Stop()
	control, err2 := outside.Stop()
	if err := errors.Join(err, err1, err2); err != nil {
		return err
	}
	r.judgePath(paths, money.edges)
	r.judgeMoney(money)
	r.judgeDownload(d)
	r.judgeCapture(seen, control)
	return ctx.Err()
}

// prepare draws the canaries.
func (r *run) prepare() error {
	clients := r.lab.Plan().Clients()
	if len(clients) == 0 {
		return errors.New("the demo needs a client")
	}
	r.client = clients[0]
	var random [24]byte
	if _, err := rand.Read(random[:]); err != nil {
		return fmt.Errorf("draw canaries: %w", err)
	}
	inHeader, inBody := hex.EncodeToString(random[:12]), hex.EncodeToString(random[12:])
	r.header = "X-Canary: " + inHeader
	r.path = fmt.Sprintf("/bytes/%d?canary=%s", r.cfg.Bytes, inBody)
	dns := append([]byte{3}, "web\x03lab\x00"...)
	r.texts = []capture.Text{
		{Name: "the name in DNS", Bytes: dns},
		{Name: "the name in HTTP", Bytes: []byte(lab.WebName)},
		{Name: "the path", Bytes: []byte(fmt.Sprintf("GET /bytes/%d", r.cfg.Bytes))},
		{Name: "a header", Bytes: []byte(inHeader)},
		{Name: "the body", Bytes: []byte(inBody)},
	}
	return nil
}

// start starts the relays, or the clients, and waits until they are ready.
func (r *run) start(ctx context.Context, clients bool) error {
	var names []string
	for _, n := range r.lab.Plan().Nodes {
		if n.Runs() && (n.Role == lab.RoleClient) == clients {
			names = append(names, n.Name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	if err := r.lab.Start(ctx, names...); err != nil {
		return err
	}
	return r.lab.Wait(ctx, names...)
}

// startCaptures watches the client's interface, where nothing may be seen, and
// the web server's, where everything must be.
func (r *run) startCaptures() (inside, outside *capture.Capture, err error) {
	var guards []netip.AddrPort
	for _, name := range r.client.Neighbors {
		n, _ := r.lab.Plan().Node(name)
		guards = append(guards, n.Endpoints()...)
	}
	in, err := capture.NewScanner(capture.Rules{Peers: guards, Texts: r.texts})
	if err != nil {
		return nil, nil, err
	}
	out, err := capture.NewScanner(capture.Rules{Texts: r.texts})
	if err != nil {
		return nil, nil, err
	}
	web, _ := r.lab.Plan().Node("web")
	if inside, err = captureIn(r.client, in); err != nil {
		return nil, nil, err
	}
	if outside, err = captureIn(web, out); err != nil {
		_, err2 := inside.Stop()
		return nil, nil, errors.Join(err, err2)
	}
	return inside, outside, nil
}

// captureIn watches a node's interface.
func captureIn(n lab.Node, s *capture.Scanner) (c *capture.Capture, err error) {
	err = netns.Do(n.Namespace, func() (err error) {
		c, err = capture.Start(lab.Interface, s)
		return err
	})
	return c, err
}

// use starts the client and downloads. paths are the circuits that were seen in
// use meanwhile.
func (r *run) use(ctx context.Context) (download, [][]string, error) {
	r.say("Starting the client; from now on its namespace has no other way out (a capture on its interface runs).")
	if err := r.start(ctx, true); err != nil {
		return download{}, nil, err
	}
	url := "http://" + lab.WebName + r.path
	r.say("Downloading %s as anybody would:", size(uint64(r.cfg.Bytes)))
	done := make(chan download, 1)
	go func() { done <- fetch(ctx, r.client.Namespace, url, r.header, r.cfg.Bytes, r.out) }() // ends with its program
	var paths [][]string
	t := time.NewTicker(50 * time.Millisecond)
	defer t.Stop()
	for {
		select {
		case d := <-done:
			return d, paths, ctx.Err()
		case <-t.C:
			circuits, err := r.lab.Circuits(ctx, r.client.Name)
			if err != nil {
				continue // the download says what is wrong
			}
			for _, c := range circuits {
				if c.Streams > 0 && !slices.ContainsFunc(paths, func(p []string) bool { return slices.Equal(p, c.Hops) }) {
					paths = append(paths, c.Hops)
				}
			}
		}
	}
}

// account is the state of all money at the end.
type account struct {
	edges    []edge
	payments []payment
	balances []balance
}

// balance is a node's two wallets.
type balance struct {
	node      string
	consuming *big.Int // on the chain
	earning   *big.Int
	ok        bool // as the transfers add up
}

// settle asks everybody to pay until nothing but dust is open; then lets the
// client go down, so that no cell is under way any more, and waits until all
// books agree. When time is over the last state is judged as it is.
func (r *run) settle(ctx context.Context) (account, error) {
	deadline := time.Now().Add(settleTimeout)
	t := time.NewTicker(500 * time.Millisecond)
	defer t.Stop()
	paid, down := false, false
	for {
		if !paid {
			paid = r.pay(ctx) == nil
		}
		a, err := r.read(ctx)
		if ctx.Err() != nil {
			return a, ctx.Err()
		}
		if err == nil && down && a.settled() || time.Now().After(deadline) {
			return a, err
		}
		if err == nil && !down && len(a.payments) > 0 && a.quiet() && !a.owing() {
			if err := r.down(ctx); err != nil {
				return a, err
			}
			down = true
		}
		select {
		case <-ctx.Done():
			return a, ctx.Err()
		case <-t.C:
			if err == nil && !down && a.quiet() && a.owing() {
				paid = false // what came since: ask again
			}
		}
	}
}

// down releases the client: its circuits close, its links stay.
func (r *run) down(ctx context.Context) error {
	c, err := r.lab.Control(r.client.Name)
	if err != nil {
		return err
	}
	if _, err := c.Down(ctx); err != nil {
		return fmt.Errorf("client goes down: %w", err)
	}
	return nil
}

// pay asks every node to settle.
func (r *run) pay(ctx context.Context) error {
	for _, n := range r.lab.Plan().Nodes {
		if !n.Runs() {
			continue
		}
		c, err := r.lab.Control(n.Name)
		if err != nil {
			return err
		}
		if _, err := c.Pay(ctx); err != nil {
			return fmt.Errorf("%s pays: %w", n.Name, err)
		}
	}
	return nil
}

// read takes all ledgers and what the chain itself says.
func (r *run) read(ctx context.Context) (account, error) {
	b := make(books)
	for _, n := range r.lab.Plan().Nodes {
		if !n.Runs() {
			continue
		}
		c, err := r.lab.Control(n.Name)
		if err != nil {
			return account{}, err
		}
		ledger, err := c.Ledger(ctx)
		if err != nil {
			return account{}, fmt.Errorf("ledger of %s: %w", n.Name, err)
		}
		b[n.Name] = ledger
	}
	transfers, newest, err := r.lab.Transfers(ctx)
	if err != nil {
		return account{}, err
	}
	a := account{edges: b.edges(r.lab.NameOf), payments: b.payments(transfers, newest, r.lab.NameOf, r.lab.Wallets)}
	for _, n := range r.lab.Plan().Nodes {
		if !n.Runs() {
			continue
		}
		entry, err := r.balance(ctx, n.Name, transfers)
		if err != nil {
			return account{}, err
		}
		a.balances = append(a.balances, entry)
	}
	return a, nil
}

// balance compares what a node's wallets hold with the transfers to and from
// them.
func (r *run) balance(ctx context.Context, node string, transfers []lab.Transfer) (balance, error) {
	consuming, earning := r.lab.Wallets(node)
	b := balance{node: node, ok: true}
	for address, holds := range map[string]**big.Int{consuming: &b.consuming, earning: &b.earning} {
		got, err := r.lab.TokenBalance(ctx, address)
		if err != nil {
			return balance{}, err
		}
		sum := new(big.Int)
		for _, t := range transfers {
			if strings.EqualFold(t.To, address) {
				sum.Add(sum, t.Value)
			}
			if strings.EqualFold(t.From, address) {
				sum.Sub(sum, t.Value)
			}
		}
		*holds = got
		b.ok = b.ok && got.Cmp(sum) == 0
	}
	return b, nil
}

// settled tells whether all books agree and nothing but dust is open.
func (a account) settled() bool {
	for _, e := range a.edges {
		if !e.equal || !e.fit {
			return false
		}
	}
	for _, p := range a.payments {
		if !p.ok {
			return false
		}
	}
	for _, b := range a.balances {
		if !b.ok {
			return false
		}
	}
	return len(a.edges) > 0 && len(a.payments) > 0 && !a.owing()
}

// quiet tells whether no payment is under way.
func (a account) quiet() bool {
	return !slices.ContainsFunc(a.payments, func(p payment) bool { return !p.ok })
}

// owing tells whether more than dust is open.
func (a account) owing() bool {
	return slices.ContainsFunc(a.edges, func(e edge) bool { return e.open[0] > dust || e.open[1] > dust })
}

// dust is what may be open at the end, in ledger units: the client's calls to
// the chain go through the network too and are billed as they happen.
const dust = 50_000

// judgePath finds the path by the counts: on each of its links at least as many
// cells as the download needs.
func (r *run) judgePath(paths [][]string, edges []edge) {
	need := uint64(r.cfg.Bytes) / wire.PayloadSize
	for _, hops := range paths {
		at, ok := r.client.Name, len(hops) == r.cfg.Options.Hops
		for _, hop := range hops {
			i := slices.IndexFunc(edges, func(e edge) bool { return e.a == at && e.b == hop || e.a == hop && e.b == at })
			ok = ok && i >= 0 && edges[i].total() >= need
			at = hop
		}
		if ok {
			r.table.add("path", true, "%s > %s > %s", r.client.Name, strings.Join(hops, " > "), lab.WebName)
			return
		}
	}
	r.table.add("path", false, "no circuit in use had %d cells on each of %d links; seen: %v", need, r.cfg.Options.Hops, paths)
}
