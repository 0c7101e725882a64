// Package exit is where the onion ends: it checks a destination against the
// operator's policy, opens the real socket and asks the resolver.
//
// An Exit belongs to a node; each circuit that ends here gets an Opener of its
// own from Exit.Circuit, which a session.Server calls. The policy is checked on
// the address that is dialed, immediately before and once more when the kernel is
// about to connect; names are resolved by the client's own queries, so that an
// answer that points a name at a forbidden address passes through unchanged and
// is of no use.
//
// It refuses to reach private networks and the exit itself unless the operator
// allows them, to hold more connections than its limits, and to log or print
// destinations: it counts.
//
// Locks: every limit is an atomic counter but the rate of a circuit, which has a
// mutex of its own, and the cache of the exit's own addresses, which has another.
package exit

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"cuttle/relay/session"
	"cuttle/relay/wire"
)

// Config says what an exit offers. Zero fields get the defaults named at each.
type Config struct {
	Policy    *Policy          // required
	Resolvers []netip.AddrPort // asked in order; required
	// Self lists the exit's own addresses, public ones included; called again when
	// its last answer is 5 s old. Nil: none.
	Self func() []netip.Addr
	// Control, if set, is called on every socket before it connects (net.Dialer's
	// Control), to keep it out of the tunnel.
	Control func(network, address string, c syscall.RawConn) error

	DialTimeout time.Duration // 10 s
	Connections int           // open or being opened, all circuits together; 4096
	PerCircuit  int           // the same of one circuit; 1024
	Rate        int           // new connections per second of one circuit; 100
	Burst       int           // of them at once; 300
	Queries     int           // DNS queries at a time, all circuits together; 512
}

const selfAge = 5 * time.Second

var (
	errPolicy    = errors.New("exit needs a policy")
	errResolvers = errors.New("exit needs a resolver")
	errForbidden = &session.Error{Code: wire.CodeForbidden}
	errLimit     = &session.Error{Code: wire.CodeResources}
	errFamily    = &session.Error{Code: wire.CodeNetworkUnreachable}
)

// Exit opens sockets for circuits. Its methods may be called by any number of
// goroutines.
type Exit struct {
	cfg     Config
	open    atomic.Int64
	queries chan struct{} // one token per query
	counts  counters
	source  func(ctx context.Context, out netip.AddrPort) netip.Addr // sourceOf, but in tests

	mu     sync.Mutex // guards the two below
	self   []netip.Addr
	selfAt time.Time
}

// counters are kept instead of a log.
type counters struct{ opened, failed, forbidden, limited, queries, unanswered atomic.Uint64 }

// Counts is what an exit has done so far, in connections and queries.
type Counts struct {
	Opened     uint64 // connections and UDP sockets that were opened
	Failed     uint64 // could not be opened
	Forbidden  uint64 // refused by the policy
	Limited    uint64 // refused by a limit
	Queries    uint64 // DNS queries taken
	Unanswered uint64 // of these, answered with SERVFAIL by the exit itself
	Open       int64  // connections and sockets open now
}

// New checks cfg; it opens nothing.
func New(cfg Config) (*Exit, error) {
	if cfg.Policy == nil {
		return nil, errPolicy
	}
	if len(cfg.Resolvers) == 0 || slices.ContainsFunc(cfg.Resolvers, func(r netip.AddrPort) bool { return !r.IsValid() || r.Port() == 0 }) {
		return nil, errResolvers
	}
	number := func(v *int, otherwise int) {
		if *v <= 0 {
			*v = otherwise
		}
	}
	number(&cfg.Connections, 4096)
	number(&cfg.PerCircuit, 1024)
	number(&cfg.Rate, 100)
	number(&cfg.Burst, 300)
	number(&cfg.Queries, 512)
	if cfg.DialTimeout <= 0 {
		cfg.DialTimeout = 10 * time.Second
	}
	e := &Exit{cfg: cfg, queries: make(chan struct{}, cfg.Queries)}
	e.source = e.sourceOf
	return e, nil
}

// Counts gives the figures so far.
func (e *Exit) Counts() Counts {
	c := &e.counts
	return Counts{
		Opened: c.opened.Load(), Failed: c.failed.Load(), Forbidden: c.forbidden.Load(), Limited: c.limited.Load(),
		Queries: c.queries.Load(), Unanswered: c.unanswered.Load(), Open: e.open.Load(),
	}
}

// Policy is the policy that the exit was made with.
func (e *Exit) Policy() *Policy { return e.cfg.Policy }

// own gives the exit's own addresses, asking for them again now and then.
func (e *Exit) own() []netip.Addr {
	if e.cfg.Self == nil {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if now := time.Now(); e.selfAt.IsZero() || now.Sub(e.selfAt) >= selfAge {
		e.selfAt = now
		if self := e.cfg.Self(); len(self) > 0 { // else it could not be found out: what was known holds
			e.self = self
		}
	}
	return e.self
}

// Circuit is the opener of one circuit: what it has open counts against limits
// of its own. It satisfies session.Opener.
type Circuit struct {
	exit *Exit
	open atomic.Int64
	rate bucket
	echo bucket // echo requests of all flows together
}

// Circuit makes the opener of a new circuit.
func (e *Exit) Circuit() *Circuit {
	return &Circuit{exit: e, rate: bucket{rate: e.cfg.Rate, burst: e.cfg.Burst}, echo: bucket{rate: echoRate, burst: 2 * echoRate}}
}

// OpenTCP connects to dst. Errors carry a *session.Error.
func (c *Circuit) OpenTCP(ctx context.Context, dst netip.AddrPort) (session.Conn, error) {
	conn, err := c.dial(ctx, "tcp", dst)
	if err != nil {
		return nil, err
	}
	return newTCPConn(conn.(*net.TCPConn), c.leave), nil
}

// OpenUDP makes a UDP socket connected to dst. Errors carry a *session.Error.
func (c *Circuit) OpenUDP(ctx context.Context, dst netip.AddrPort) (net.Conn, error) {
	conn, err := c.dial(ctx, "udp", dst)
	if err != nil {
		return nil, err
	}
	return newUDPConn(conn.(*net.UDPConn), c.leave), nil
}

// Resolve answers a DNS query; see Exit's resolver.
func (c *Circuit) Resolve(ctx context.Context, query []byte) ([]byte, error) {
	return c.exit.resolve(ctx, query)
}

// dial opens a socket after policy and limits have been asked; the connection
// counts until leave is called.
func (c *Circuit) dial(ctx context.Context, network string, dst netip.AddrPort) (net.Conn, error) {
	e := c.exit
	dst = netip.AddrPortFrom(dst.Addr().Unmap(), dst.Port())
	if err := e.cfg.Policy.Check(protocolOf(network), dst, e.own()); err != nil {
		e.counts.forbidden.Add(1)
		return nil, err
	}
	if !c.enter() {
		e.counts.limited.Add(1)
		return nil, errLimit
	}
	family := "4"
	if dst.Addr().Is6() {
		family = "6"
	}
	d := net.Dialer{Timeout: e.cfg.DialTimeout, Control: e.control}
	d.SetMultipathTCP(false)
	conn, err := d.DialContext(ctx, network+family, dst.String())
	if err != nil {
		c.leave()
		e.counts.failed.Add(1)
		// The cause names the address: only its code goes on.
		return nil, &session.Error{Code: CodeOf(err)}
	}
	e.counts.opened.Add(1)
	return conn, nil
}

// protocolOf reads net's names of networks.
func protocolOf(network string) Protocol {
	if strings.HasPrefix(network, "udp") {
		return UDP
	}
	return TCP
}

// control runs on the socket just before it connects: the last look at the
// address that is really dialed, and the node's mark.
func (e *Exit) control(network, address string, raw syscall.RawConn) error {
	dst, err := netip.ParseAddrPort(address)
	if err != nil {
		return errForbidden
	}
	if err := e.cfg.Policy.Check(protocolOf(network), dst, e.own()); err != nil {
		return err
	}
	if e.cfg.Control == nil {
		return nil
	}
	return e.cfg.Control(network, address, raw)
}

// enter counts a connection; false if that is more than a limit allows.
func (c *Circuit) enter() bool {
	if c.open.Add(1) > int64(c.exit.cfg.PerCircuit) {
		c.open.Add(-1)
		return false
	}
	if c.exit.open.Add(1) > int64(c.exit.cfg.Connections) || !c.rate.take(time.Now()) {
		c.leave()
		return false
	}
	return true
}

func (c *Circuit) leave() {
	c.open.Add(-1)
	c.exit.open.Add(-1)
}

// bucket limits a rate: burst at once, rate per second in the long run.
type bucket struct {
	rate, burst int

	mu     sync.Mutex // guards the rest
	tokens float64
	at     time.Time
}

func (b *bucket) take(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.at.IsZero() {
		b.tokens = float64(b.burst)
	} else {
		b.tokens = min(float64(b.burst), b.tokens+now.Sub(b.at).Seconds()*float64(b.rate))
	}
	b.at = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

var _ session.Opener = (*Circuit)(nil)
