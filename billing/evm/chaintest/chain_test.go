// Package chaintest runs billing against a real chain: go-ethereum's simulated
// backend, spoken to over HTTP as any other endpoint. It is a module of its own
// because that backend drags in a whole node; nothing in it is imported by
// anybody.
//
//	go test ./...      in this folder; the first build takes minutes
package chaintest

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"math/big"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/accounts/keystore"
	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/ethereum/go-ethereum/eth/ethconfig"
	"github.com/ethereum/go-ethereum/ethclient/simulated"
	"github.com/ethereum/go-ethereum/node"
	"github.com/ethereum/go-ethereum/params"

	"cuttle/billing"
	"cuttle/billing/evm"
	"cuttle/billing/evm/erc20"
	"cuttle/billing/wallet"
	"cuttle/relay/wire"
)

func TestMain(m *testing.M) {
	if child() {
		return
	}
	os.Exit(m.Run()) // the simulated backend leaves goroutines of its own
}

const (
	chainID     = 1337
	callTimeout = 30 * time.Second // a loaded machine makes the chain wait for long
)

// devChain is a chain whose blocks are made by commit, or by a ticker.
type devChain struct {
	tb      testing.TB
	backend *simulated.Backend
	url     string
	key     *ecdsa.PrivateKey
	token   common.Address
	binding *erc20.Token
	mu      sync.Mutex // one commit at a time
}

func startChain(tb testing.TB) *devChain {
	tb.Helper()
	key, err := crypto.GenerateKey()
	if err != nil {
		tb.Fatal(err)
	}
	port := freePort(tb)
	c := &devChain{tb: tb, key: key, binding: erc20.NewToken(), url: fmt.Sprintf("http://127.0.0.1:%d", port)}
	alloc := types.GenesisAlloc{crypto.PubkeyToAddress(key.PublicKey): {Balance: ether(1_000_000)}}
	c.backend = simulated.NewBackend(alloc, func(n *node.Config, e *ethconfig.Config) {
		n.HTTPHost, n.HTTPPort, n.HTTPModules = "127.0.0.1", port, []string{"eth", "net", "web3", "debug"}
		rules := *params.AllDevChainProtocolChanges
		rules.OsakaTime, rules.BogotaTime = nil, nil
		e.Genesis.Config = &rules
	})
	tb.Cleanup(func() { c.backend.Close() })
	hash := c.send(key, nil, nil, append(common.FromHex(erc20.TokenMetaData.Bin), c.binding.PackConstructor(crypto.PubkeyToAddress(key.PublicKey), ether(1_000_000))...))
	c.commit(1)
	c.token = c.receipt(hash).ContractAddress
	return c
}

// freePort is below the ports that the system gives to connections, which would
// otherwise now and then take it before the chain does.
func freePort(tb testing.TB) int {
	tb.Helper()
	for range 100 {
		port := 10_000 + rand.IntN(20_000)
		ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			_ = ln.Close()
			return port
		}
	}
	tb.Fatal("no port is free")
	return 0
}

func ether(n int64) *big.Int { return new(big.Int).Mul(big.NewInt(n), big.NewInt(params.Ether)) }

func (c *devChain) commit(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for range n {
		c.backend.Commit()
	}
}

// mine makes blocks until the test ends or stop is called.
func (c *devChain) mine() (stop func()) { return c.mineEvery(100 * time.Millisecond) }

func (c *devChain) mineEvery(period time.Duration) (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() { // ends with stop
		defer close(ended)
		t := time.NewTicker(period)
		defer t.Stop()
		for {
			select {
			case <-done:
				return
			case <-t.C:
				c.commit(1)
			}
		}
	}()
	return sync.OnceFunc(func() { close(done); <-ended })
}

// send signs with the pending nonce and broadcasts.
func (c *devChain) send(key *ecdsa.PrivateKey, to *common.Address, value *big.Int, data []byte) common.Hash {
	c.tb.Helper()
	return c.sendAt(key, c.pendingNonce(crypto.PubkeyToAddress(key.PublicKey)), 2, to, value, data)
}

// sendAt broadcasts with a nonce and a tip in gwei.
func (c *devChain) sendAt(key *ecdsa.PrivateKey, nonce uint64, tip int64, to *common.Address, value *big.Int, data []byte) common.Hash {
	c.tb.Helper()
	return c.broadcast(key, &types.DynamicFeeTx{Nonce: nonce, GasTipCap: big.NewInt(tip * params.GWei), GasFeeCap: big.NewInt((tip + 10) * params.GWei), Gas: 1_000_000, To: to, Value: value, Data: data})
}

// sendGas puts a contract on the chain with a gas limit of its own.
func (c *devChain) sendGas(gas uint64, code []byte) common.Hash {
	c.tb.Helper()
	nonce := c.pendingNonce(crypto.PubkeyToAddress(c.key.PublicKey))
	return c.broadcast(c.key, &types.DynamicFeeTx{Nonce: nonce, GasTipCap: big.NewInt(params.GWei), GasFeeCap: big.NewInt(10 * params.GWei), Gas: gas, Data: code})
}

func (c *devChain) pendingNonce(a common.Address) uint64 {
	c.tb.Helper()
	nonce, err := c.backend.Client().PendingNonceAt(context.Background(), a)
	if err != nil {
		c.tb.Fatal(err)
	}
	return nonce
}

// broadcast returns when the pool counts the transaction as pending: it follows
// the head, and takes what it was given, a moment later.
func (c *devChain) broadcast(key *ecdsa.PrivateKey, inner *types.DynamicFeeTx) common.Hash {
	c.tb.Helper()
	inner.ChainID = big.NewInt(chainID)
	tx, err := types.SignNewTx(key, types.LatestSignerForChainID(inner.ChainID), inner)
	if err != nil {
		c.tb.Fatal(err)
	}
	eventually(c.tb, "the pool takes it", func() error { return c.backend.Client().SendTransaction(context.Background(), tx) })
	eventually(c.tb, "it is pending", func() error {
		if got := c.pendingNonce(crypto.PubkeyToAddress(key.PublicKey)); got <= inner.Nonce {
			return fmt.Errorf("next nonce is %d", got)
		}
		return nil
	})
	return tx.Hash()
}

func (c *devChain) receipt(h common.Hash) *types.Receipt {
	c.tb.Helper()
	var r *types.Receipt
	eventually(c.tb, "a receipt is there", func() (err error) {
		r, err = c.backend.Client().TransactionReceipt(context.Background(), h)
		return err
	})
	return r
}

// fund gives an address coins for gas and tokens, and waits for a block.
func (c *devChain) fund(a common.Address, gas, tokens *big.Int) {
	c.tb.Helper()
	if gas.Sign() > 0 {
		c.send(c.key, &a, gas, nil)
	}
	if tokens.Sign() > 0 {
		c.send(c.key, &c.token, nil, c.binding.PackTransfer(a, tokens))
	}
	c.commit(1)
}

func (c *devChain) balance(a common.Address) *big.Int {
	c.tb.Helper()
	client := newClient(c.tb, c.url, c.token)
	defer client.Close()
	var b evm.Balances
	eventually(c.tb, "the chain says what "+a.Hex()+" holds", func() (err error) {
		b, err = client.Balances(context.Background(), a)
		return err
	})
	return b.Token
}

func newClient(tb testing.TB, url string, token common.Address) *evm.Client {
	tb.Helper()
	c, err := evm.NewClient(evm.ClientConfig{Endpoints: []string{url}, ChainID: chainID, Token: token, Timeout: callTimeout})
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

func eventually(tb testing.TB, what string, check func() error) {
	tb.Helper()
	deadline := time.Now().Add(150 * time.Second)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			tb.Fatalf("waited in vain until %s: %v", what, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// party is a node's money: a Book, its wallets and its running loop.
type party struct {
	book    *billing.Book
	wallet  *wallet.Wallet
	earning common.Address
	client  *evm.Client
	stop    func()
}

type setup struct {
	self          byte
	dir           string
	url           string
	more          []string // further endpoints
	token         common.Address
	confirmations uint64
	now           func() time.Time
	step          func(string, int64)
	credit        billing.Amount
	channels      *billing.ChannelConfig
	watch         uint64 // blocks that what is final is looked after; 0: for ever
	finality      evm.Finality
	change        func(*billing.Config)
}

func nodeID(n byte) (id wire.NodeID) {
	id[0], id[31] = n, 1
	return id
}

// open opens a party's Book in dir, where an earlier one may have left its
// ledger and wallet, and runs it.
func open(s setup) (*party, error) {
	path := filepath.Join(s.dir, fmt.Sprintf("wallet%d", s.self))
	w, err := wallet.Open(path, "pw")
	if errors.Is(err, os.ErrNotExist) {
		w, err = wallet.Create(path, "pw", true)
	}
	if err != nil {
		return nil, err
	}
	client, err := evm.NewClient(evm.ClientConfig{Endpoints: append([]string{s.url}, s.more...), ChainID: chainID, Token: s.token, Timeout: callTimeout, Finality: s.finality})
	if err != nil {
		return nil, err
	}
	p := &party{wallet: w, client: client, earning: earning(s.self)}
	if s.watch == 0 { // blocks are made so fast here that the default would be over in seconds
		s.watch = 1 << 20
	}
	cfg := billing.Config{
		Path: filepath.Join(s.dir, fmt.Sprintf("ledger%d", s.self)), Self: nodeID(s.self),
		Direct: &billing.DirectConfig{Client: client, Wallet: w, Earning: p.earning, Channels: s.channels,
			Payments: evm.PaymentConfig{Confirmations: s.confirmations, Now: s.now, Step: s.step, Watch: s.watch}},
		Credit: s.credit, SettleAbove: 1 << 60, ScanEvery: 50 * time.Millisecond, PollEvery: 50 * time.Millisecond, MarkerCells: 1 << 14,
	}
	if s.change != nil {
		s.change(&cfg)
	}
	if p.book, err = billing.Open(cfg); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { // ends with stop
		defer close(ended)
		if err := p.book.Run(ctx); err != nil {
			panic(err)
		}
	}()
	p.stop = sync.OnceFunc(func() {
		cancel()
		<-ended
		if err := p.book.Close(); err != nil {
			panic(err)
		}
		client.Close()
	})
	return p, nil
}

func mustOpen(tb testing.TB, s setup) *party {
	tb.Helper()
	p, err := open(s)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(p.stop)
	return p
}

// earning makes up an address that nobody has a key for.
func earning(self byte) (a common.Address) {
	copy(a[:], crypto.Keccak256([]byte{'e', self}))
	return a
}

// pipe joins two Books: each end's frames arrive in order.
type pipe struct {
	ends  [2]*pipeEnd
	total uint64 // cells that use has sent each way
	stop  chan struct{}
	once  sync.Once
	wg    sync.WaitGroup
}

type pipeEnd struct {
	p     *pipe
	other *pipeEnd
	n     *billing.Neighbor
	in    chan frame
	wakes chan struct{}
	mu    sync.Mutex
	out   []frame
	got   atomic.Uint64
}

type frame struct {
	bill  []byte
	payer billing.Payer
	tier  wire.Tier
	cells wire.Cells
}

func (e *pipeEnd) Bill(m []byte) error {
	e.push(frame{bill: append([]byte(nil), m...)})
	return nil
}

func (e *pipeEnd) push(f frame) {
	e.mu.Lock()
	e.out = append(e.out, f)
	e.mu.Unlock()
	e.Wake()
}

func (e *pipeEnd) Wake() {
	select {
	case e.wakes <- struct{}{}:
	default:
	}
}

func (e *pipeEnd) Close() { e.p.once.Do(func() { close(e.p.stop) }) }

// Throttle does nothing: the cells of this link are sent by the test.
func (e *pipeEnd) Throttle(int) {}

func (e *pipeEnd) write() {
	for {
		e.mu.Lock()
		out := e.out
		e.out = nil
		e.mu.Unlock()
		for _, f := range out {
			if f.bill == nil {
				e.n.Add(billing.Sent, f.payer, f.tier, f.cells)
			}
			if !e.put(f) {
				return
			}
		}
		if m := e.n.Marker(); m != nil {
			if !e.put(frame{bill: m}) {
				return
			}
			continue
		}
		if len(out) > 0 {
			continue
		}
		select {
		case <-e.wakes:
		case <-e.p.stop:
			return
		}
	}
}

func (e *pipeEnd) put(f frame) bool {
	select {
	case e.other.in <- f:
		return true
	case <-e.p.stop:
		return false
	}
}

func (e *pipeEnd) read() {
	for {
		select {
		case <-e.p.stop:
			return
		case f := <-e.in:
			if f.bill == nil {
				e.n.Add(billing.Received, 1-f.payer, f.tier, f.cells)
				e.got.Add(uint64(f.cells))
			} else if err := e.n.Message(f.bill); err != nil {
				e.Close()
				return
			}
		}
	}
}

func connect(a, b *billing.Book, idA, idB wire.NodeID) (*pipe, error) {
	p := &pipe{stop: make(chan struct{})}
	for i := range p.ends {
		p.ends[i] = &pipeEnd{p: p, in: make(chan frame, 16), wakes: make(chan struct{}, 1)}
	}
	p.ends[0].other, p.ends[1].other = p.ends[1], p.ends[0]
	var err error
	if p.ends[0].n, err = a.Neighbor(idB, p.ends[0]); err != nil {
		return nil, err
	}
	if p.ends[1].n, err = b.Neighbor(idA, p.ends[1]); err != nil {
		return nil, err
	}
	for _, e := range p.ends {
		p.wg.Go(e.write) // ends with cut
		p.wg.Go(e.read)  // ends with cut
	}
	return p, nil
}

func (p *pipe) cut() {
	p.ends[0].Close()
	p.wg.Wait()
	for _, e := range p.ends {
		e.n.Down()
	}
}

func mustConnect(tb testing.TB, a, b *party) *pipe {
	tb.Helper()
	p, err := connect(a.book, b.book, nodeID(1), nodeID(2))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(p.cut)
	return p
}

// use sends cells that payer (as the first end names it) pays, half of them each
// way, and waits until they are counted.
func (p *pipe) use(payer billing.Payer, tier wire.Tier, cells wire.Cells) {
	p.total += uint64(cells / 2)
	for _, e := range p.ends {
		e.push(frame{payer: payer, tier: tier, cells: cells / 2})
		payer = 1 - payer
	}
	for p.ends[0].got.Load() != p.total || p.ends[1].got.Load() != p.total {
		time.Sleep(time.Millisecond)
	}
}

// neighbor is a Book's report of its only neighbor.
func neighbor(b *billing.Book) (billing.Report, billing.NeighborReport, error) {
	r, err := b.Report(context.Background())
	if err == nil && len(r.Neighbors) != 1 {
		err = fmt.Errorf("%d neighbors", len(r.Neighbors))
	}
	if err != nil {
		return r, billing.NeighborReport{}, err
	}
	return r, r.Neighbors[0], nil
}

func settle(tb testing.TB, b *billing.Book) {
	tb.Helper()
	eventually(tb, "what is owed is paid", func() error {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		return b.Settle(ctx)
	})
}

// settled waits until a's debt to b is paid and believed by both.
func settled(tb testing.TB, a, b *party, payments int) {
	tb.Helper()
	eventually(tb, "the payment is final and credited", func() error {
		_, ra, err := neighbor(a.book)
		if err != nil {
			return err
		}
		_, rb, err := neighbor(b.book)
		if err != nil {
			return err
		}
		final := 0
		for _, p := range ra.Payments {
			if p.State == "final" {
				final++
			}
		}
		if final != payments || ra.WeOwe != 0 || ra.InTransit != 0 || rb.TheyOwe != 0 || len(rb.Receipts) != payments {
			return fmt.Errorf("a: owes %v, in transit %v, payments %+v; b: owed %v, receipts %d", ra.WeOwe, ra.InTransit, ra.Payments, rb.TheyOwe, len(rb.Receipts))
		}
		return nil
	})
}

// gate is a proxy before the chain that can be shut or made unreliable.
type gate struct {
	url  string
	shut atomic.Bool
	bad  atomic.Int32 // of 100 calls, so many fail, half of them after the chain has acted
}

func startGate(tb testing.TB, target string) *gate {
	tb.Helper()
	u, err := url.Parse(target)
	if err != nil {
		tb.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	g := &gate{url: "http://" + l.Addr().String()}
	proxy := httputil.NewSingleHostReverseProxy(u)
	srv := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fail := rand.Int32N(100) < g.bad.Load()
		switch {
		case g.shut.Load() || (fail && rand.IntN(2) == 0):
			http.Error(w, "unavailable", http.StatusServiceUnavailable)
		case fail:
			proxy.ServeHTTP(discard{http.Header{}}, r) // the chain acts, the answer is lost
			http.Error(w, "bad gateway", http.StatusBadGateway)
		default:
			proxy.ServeHTTP(w, r)
		}
	})}
	go srv.Serve(l) // ends with Close
	tb.Cleanup(func() { srv.Close() })
	return g
}

type discard struct{ h http.Header }

func (d discard) Header() http.Header         { return d.h }
func (d discard) Write(b []byte) (int, error) { return len(b), nil }
func (d discard) WriteHeader(int)             {}

// walletKey opens a wallet file behind its owner's back.
func walletKey(tb testing.TB, path string) *ecdsa.PrivateKey {
	tb.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	key, err := keystore.DecryptKey(text, "pw")
	if err != nil {
		tb.Fatal(err)
	}
	return key.PrivateKey
}
