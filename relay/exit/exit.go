// Package exit is where the onion ends: it checks a destination against the
// operator's policy, opens the real socket and asks the resolver.
//
// An Exit belongs to a node; each session that ends here gets an Opener of its
// own from Exit.Circuit, which a session.Server calls. The policy is checked on
// the address that is dialed, immediately before and once more when the kernel is
// about to connect; names are resolved by the client's own queries, so that an
// answer that points a name at a forbidden address passes through unchanged and
// is of no use.
//
// It refuses to reach private networks, those that the exit is in, and the exit itself unless the operator
// allows them, to hold more connections than its limits, and to log or print
// destinations: it counts.
//
// Locks: each share, bucket and quiet has a mutex of its own; Exit.mu guards the
// cache of the exit's own addresses, Exit.udp the list of UDP sockets, Exit.near that
// of neighbors. None is taken while another is held, but a share's by who leaves it.
package exit

import (
	"context"
	"crypto/x509"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"cuttle/relay/session"
	"cuttle/relay/wire"
)

// Config says what an exit offers. Zero fields get the defaults named at each.
type Config struct {
	Policy    *Policy        // required
	Resolvers []Resolver     // asked in order; required
	Roots     *x509.CertPool // that certify resolvers; nil: the system's
	// Self lists the exit's own addresses, public ones included, each with the network
	// that it is in; called again when its last answer is 5 s old. Nil: none.
	Self func() []netip.Prefix
	// Control, if set, is called on every socket before it connects (net.Dialer's
	// Control), to keep it out of the tunnel.
	Control func(network, address string, c syscall.RawConn) error

	Limits Limits

	DialTimeout    time.Duration // of a TCP connection; 10 s
	ResolveTimeout time.Duration // of a query, all resolvers together; 10 s
	TCPIdle        time.Duration // a connection on which nothing moves is reset after; 2 h 4 min
	HalfClosed     time.Duration // the same where one side has finished; 15 min, at most TCPIdle
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
	rate    bucket // new sockets of all sessions
	places  share  // sockets
	queries share

	echoes identifiers

	upstreams []*upstream
	counts    counters
	source    func(ctx context.Context, out netip.AddrPort) netip.Addr // sourceOf, but in tests

	mu     sync.Mutex // guards the two below
	self   []netip.Prefix
	selfAt time.Time

	udp   sync.Mutex // guards flows
	flows map[*udpConn]struct{}

	near      sync.Mutex // guards neighbors, and the sessions of each
	neighbors map[wire.NodeID]*neighbor
}

// counters are kept instead of a log.
type counters struct{ opened, failed, forbidden, limited, idle, evicted, queries, unanswered atomic.Uint64 }

// Counts is what an exit has done so far, in connections and queries.
type Counts struct {
	Opened     uint64 // connections and UDP sockets that were opened
	Failed     uint64 // could not be opened
	Forbidden  uint64 // refused by the policy
	Limited    uint64 // refused by a limit
	Idle       uint64 // TCP connections reset after a long silence
	Evicted    uint64 // UDP sockets closed, since others needed the room
	Queries    uint64 // DNS queries taken
	Unanswered uint64 // of these, answered with SERVFAIL by the exit itself
	Open       int64  // connections and sockets open now
}

// New checks cfg; it opens nothing.
func New(cfg Config) (*Exit, error) {
	if cfg.Policy == nil {
		return nil, errPolicy
	}
	if len(cfg.Resolvers) == 0 || slices.Contains(cfg.Resolvers, Resolver{}) {
		return nil, errResolvers
	}
	duration := func(v *time.Duration, otherwise time.Duration) {
		if *v <= 0 {
			*v = otherwise
		}
	}
	duration(&cfg.DialTimeout, 10*time.Second)
	duration(&cfg.ResolveTimeout, 10*time.Second)
	duration(&cfg.TCPIdle, tcpIdle)
	duration(&cfg.HalfClosed, halfClosed)
	cfg.Limits.defaults()
	l := &cfg.Limits
	e := &Exit{
		cfg: cfg, rate: bucket{rate: l.TotalRate, burst: l.TotalBurst},
		places:    share{total: l.Connections, each: l.PerSession, part: 1, near: l.PerNeighbor},
		queries:   share{total: l.Queries, each: l.QueriesPerSession, part: 4, near: l.QueriesPerNeighbor},
		flows:     make(map[*udpConn]struct{}),
		neighbors: make(map[wire.NodeID]*neighbor),
	}
	e.source = e.sourceOf
	for _, r := range cfg.Resolvers {
		e.upstreams = append(e.upstreams, e.connect(r))
	}
	return e, nil
}

// Close ends the connections to resolvers and waits for what reads from them. The
// sessions have ended before.
func (e *Exit) Close() {
	for _, u := range e.upstreams {
		u.close()
	}
}

// Counts gives the figures so far.
func (e *Exit) Counts() Counts {
	c := &e.counts
	return Counts{
		Opened: c.opened.Load(), Failed: c.failed.Load(), Forbidden: c.forbidden.Load(), Limited: c.limited.Load(),
		Idle: c.idle.Load(), Evicted: c.evicted.Load(),
		Queries: c.queries.Load(), Unanswered: c.unanswered.Load(), Open: int64(e.places.count()),
	}
}

// Policy is the policy that the exit was made with.
func (e *Exit) Policy() *Policy { return e.cfg.Policy }

// own gives the exit's own addresses, asking for them again now and then.
func (e *Exit) own() []netip.Prefix {
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

// Circuit is the opener of one session: what it has open counts against limits of
// its own, and against those of the neighbor that the session comes over. It satisfies
// session.Opener and session.Guest.
type Circuit struct {
	exit      *Exit
	near      atomic.Pointer[neighbor]
	places    holder
	questions holder
	rate      bucket
	asking    bucket
	echo      bucket // echo requests of all flows together
}

// Circuit makes the opener of a new session that comes over a neighbor. The caller
// calls Leave when it has ended.
func (e *Exit) Circuit(from wire.NodeID) *Circuit {
	l := &e.cfg.Limits
	c := &Circuit{
		exit: e, rate: bucket{rate: l.Rate, burst: l.Burst}, asking: bucket{rate: l.QueryRate, burst: l.QueryBurst},
		echo: bucket{rate: echoRate, burst: 2 * echoRate},
	}
	n := e.neighbor(from)
	c.near.Store(n)
	c.places.near, c.questions.near = &n.places, &n.questions
	return c
}

// OpenTCP connects to dst. Errors carry a *session.Error.
func (c *Circuit) OpenTCP(ctx context.Context, dst netip.AddrPort) (session.Conn, error) {
	e := c.exit
	dst = netip.AddrPortFrom(dst.Addr().Unmap(), dst.Port())
	if err := c.admit(TCP, dst); err != nil {
		return nil, err
	}
	network := "tcp4"
	if dst.Addr().Is6() {
		network = "tcp6"
	}
	d := net.Dialer{Timeout: e.cfg.DialTimeout, Control: e.control}
	d.SetMultipathTCP(false)
	conn, err := d.DialContext(ctx, network, dst.String())
	if err != nil {
		c.leave()
		e.counts.failed.Add(1)
		// The cause names the address: only its code goes on.
		return nil, &session.Error{Code: CodeOf(err)}
	}
	e.counts.opened.Add(1)
	return c.newTCPConn(conn.(*net.TCPConn)), nil
}

// Resolve answers a DNS query; see Exit's resolver.
func (c *Circuit) Resolve(ctx context.Context, query []byte) ([]byte, error) {
	return c.exit.resolve(ctx, c, query)
}

// control runs on a TCP socket just before it connects: the last look at the
// address that is really dialed, and the node's mark.
func (e *Exit) control(network, address string, raw syscall.RawConn) error {
	dst, err := netip.ParseAddrPort(address)
	if err != nil {
		return errForbidden
	}
	if err := e.cfg.Policy.Check(TCP, dst, e.own()); err != nil {
		return err
	}
	if e.cfg.Control == nil {
		return nil
	}
	return e.cfg.Control(network, address, raw)
}

// admit asks the policy, and counts a socket until leave is called.
func (c *Circuit) admit(by Protocol, dst netip.AddrPort) error {
	e := c.exit
	if err := e.cfg.Policy.Check(by, dst, e.own()); err != nil {
		e.counts.forbidden.Add(1)
		return err
	}
	if !c.enter() {
		e.counts.limited.Add(1)
		return errLimit
	}
	return nil
}

// enter counts a socket; false if that is more than a limit allows. Where there is
// no room, a UDP socket that has been silent for long makes some.
func (c *Circuit) enter() bool {
	e := c.exit
	if !c.paced() {
		return false
	}
	if e.places.take(&c.places) {
		return true
	}
	return e.evict(c) && e.places.take(&c.places)
}

// paced takes a new socket, or a new peer of a socket, from the rates.
func (c *Circuit) paced() bool {
	now := time.Now()
	return c.rate.take(now) && c.near.Load().rate.take(now) && c.exit.rate.take(now)
}

func (c *Circuit) leave() { c.exit.places.give(&c.places) }

var (
	_ session.Opener = (*Circuit)(nil)
	_ session.Guest  = (*Circuit)(nil)
)
