package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"cuttle/internal/config"
	"cuttle/relay/circuit"
	"cuttle/relay/session"
	"cuttle/relay/wire"
	"cuttle/stack"
	"cuttle/stack/dnscache"
)

// attempts bounds on how many sessions one flow is tried, when the session (not
// the destination) is what failed.
const attempts = 3

// errDown says that flows cannot be carried since the client is off.
var errDown = errors.New("the tunnel is down")

// onward carries flows of the stack, and our own calls to the chain, over the
// circuits of a pool: a session is begun on a circuit when it is first used, and
// moves to another when it ends. It satisfies stack.Dialer.
type onward struct {
	pool atomic.Pointer[circuit.Pool] // nil while the client is off
	cfg  session.Config

	answered  answered
	refusals  refusals
	isolation *isolation
	names     *dnscache.Cache // by isolation key; of the time since the client came up or wanted other paths
	// other tells why no path to an exit serves a want, nil if one does.
	other func(w circuit.Want) error
	// silent are the exits that have not answered lately; nil: it is not known.
	silent func() []wire.NodeID
	mute   mute // exits whose sessions have gone silent
	// device tells what the device that an address belongs to wants; nil: nothing of its
	// own. nil: there are no devices.
	device func(netip.Addr) (*deviceWish, error)
	// spent tells why flows of this machine are not carried for now; nil: they are. It
	// is not asked for calls of our own.
	spent func() error

	mu       sync.Mutex // guards sessions; taken before a carried's
	sessions map[*circuit.Circuit]*carried
	ending   sync.WaitGroup // goroutines that end with a session
}

// carried is a session and the circuit that it is on.
type carried struct {
	client *session.Client
	key    circuit.Key // of the flow that it was begun for

	mu      sync.Mutex // guards the fields below
	circuit *circuit.Circuit
	uses    int // of the circuit, by flows
}

var (
	_ stack.Dialer = (*onward)(nil)
	_ stack.Peers  = (*flow)(nil)
)

func newOnward(cl config.Client, memory int64) *onward {
	return &onward{
		sessions: make(map[*circuit.Circuit]*carried), answered: answered{mode: cl.Early}, isolation: newIsolation(cl),
		names: dnscache.New(cl.DNSCache << 20), cfg: session.Config{Streams: clientFlows, Kept: session.NewKept(memory)},
	}
}

// on finds the session on a circuit that the pool gave, or begins one.
func (o *onward) on(p *circuit.Pool, c *circuit.Circuit, key circuit.Key) *carried {
	o.mu.Lock()
	defer o.mu.Unlock()
	if k := o.sessions[c]; k != nil {
		return k
	}
	k := &carried{circuit: c, key: key}
	k.client = session.NewClient(line{c, key, &o.mute}, func(ctx context.Context, silent bool) (session.Line, error) {
		return o.move(ctx, p, k, silent)
	}, o.cfg)
	o.sessions[c] = k
	o.ending.Go(func() { // ends with the session
		<-k.client.Done()
		k.client.Close()
		o.mu.Lock()
		defer o.mu.Unlock()
		k.mu.Lock()
		defer k.mu.Unlock()
		delete(o.sessions, k.circuit)
	})
	return k
}

// move finds another circuit for a session that has lost its own.
func (o *onward) move(ctx context.Context, p *circuit.Pool, k *carried, silent bool) (session.Line, error) {
	if o.pool.Load() != p { // the client is off: there will be none
		return nil, session.ErrExitGone
	}
	k.mu.Lock()
	lost := k.circuit
	k.mu.Unlock()
	c, err := p.GetTo(ctx, lost, silent)
	switch {
	case errors.Is(err, circuit.ErrExitGone):
		return nil, fmt.Errorf("%w: %w", session.ErrExitGone, err)
	case errors.Is(err, circuit.ErrExitMute):
		o.mute.note(muted{exit: lost.Exit(), all: true})
		if o.other != nil && o.other(circuit.Want{Not: []wire.NodeID{lost.Exit()}}) != nil {
			return nil, err // it is all there is: its flows wait for it
		}
		return nil, fmt.Errorf("%w: %w", session.ErrExitMute, err)
	case err != nil:
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(o.sessions, lost)
	o.sessions[c] = k
	k.circuit = c
	c.Use(k.uses)
	for range k.uses {
		lost.Release()
	}
	p.Offer(c)
	c.Release() // GetTo's
	return line{c, k.key, &o.mute}, nil
}

// begin notes a use of the circuit by a flow; the pool has counted it on c.
func (k *carried) begin(c *circuit.Circuit) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.uses++
	if k.circuit != c { // it has moved meanwhile
		k.circuit.Use(1)
		c.Release()
	}
}

// done ends a use that begin began.
func (k *carried) done() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.uses--
	k.circuit.Release()
}

// retire ends the session on a circuit that is old and idle, and so the circuit.
func (o *onward) retire(c *circuit.Circuit) {
	o.mu.Lock()
	k := o.sessions[c]
	o.mu.Unlock()
	if k == nil {
		c.Close()
		return
	}
	o.ending.Go(k.client.Close) // ends soon: Close is bounded
}

// end ends every session: the client goes off.
func (o *onward) end() {
	o.mute.forget()
	o.answered.forget()
	o.refusals.forget()
	var all sync.WaitGroup
	o.mu.Lock()
	for _, k := range o.sessions {
		all.Go(k.client.Close)
	}
	o.mu.Unlock()
	all.Wait()
}

// retry lets sessions without a circuit look for one at once.
func (o *onward) retry() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, k := range o.sessions {
		k.client.Retry()
	}
}

// getFor takes a circuit that serves the want into use with the session on it.
func (o *onward) getFor(ctx context.Context, w circuit.Want) (*carried, *circuit.Circuit, error) {
	p := o.pool.Load()
	if p == nil {
		return nil, nil, errDown
	}
	c, err := p.Get(ctx, w)
	if err != nil {
		return nil, nil, err
	}
	k := o.on(p, c, w.Key)
	k.begin(c)
	return k, c, nil
}

// stream opens a TCP stream; it ends its use of the session when it is closed.
func (o *onward) stream(ctx context.Context, f stack.Flow) (*stream, error) {
	var out *stream
	dst := f.Dst()
	w, err := o.want(f, ownerTCP)
	if err == nil {
		err = o.unserved(w)
	}
	if err != nil {
		return nil, err
	}
	err = o.each(ctx, w, dst.Addr(), func(ctx context.Context, k *carried, exit wire.NodeID) error {
		st, err := k.client.OpenTCP(dst)
		if err != nil {
			return err
		}
		to := answer{w.Key, dst, exit}
		if o.answered.early(to) {
			o.ending.Go(func() { // ends with the exit's answer or the stream
				err := st.Opened(context.Background())
				o.answered.note(to, err == nil)
				o.judge(w.Key, dst.Addr(), exit, err)
			})
		} else if err := st.Opened(ctx); err != nil {
			st.Reset(wire.CodeEnded)
			o.answered.note(to, false)
			return err
		} else {
			o.answered.note(to, true)
			o.judge(w.Key, dst.Addr(), exit, nil)
		}
		out = &stream{Stream: st, release: sync.OnceFunc(k.done)}
		return nil
	})
	return out, err
}

// allowed tells whether the user's spending limits leave room for a flow.
func (o *onward) allowed() error {
	if o.spent == nil {
		return nil
	}
	return o.spent()
}

// DialTCP opens a stream through the exit.
func (o *onward) DialTCP(ctx context.Context, f stack.Flow) (stack.Conn, error) {
	if err := o.allowed(); err != nil {
		return nil, err
	}
	s, err := o.stream(ctx, f)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// DialUDP opens a flow of datagrams through the exit.
func (o *onward) DialUDP(ctx context.Context, f stack.Flow) (stack.PacketConn, error) {
	if err := o.allowed(); err != nil {
		return nil, err
	}
	return o.datagrams(ctx, f, ownerUDP, func(ctx context.Context, k *carried) (*session.Flow, error) {
		return k.client.DialUDP(ctx, f.Dst())
	})
}

// DialEcho opens a flow of ICMP echo through the exit.
func (o *onward) DialEcho(ctx context.Context, f stack.Flow) (stack.PacketConn, error) {
	if err := o.allowed(); err != nil {
		return nil, err
	}
	return o.datagrams(ctx, f, ownerNone, func(ctx context.Context, k *carried) (*session.Flow, error) {
		return k.client.DialEcho(ctx, f.Dst().Addr())
	})
}

func (o *onward) datagrams(ctx context.Context, f stack.Flow, by protocol, dial func(context.Context, *carried) (*session.Flow, error)) (stack.PacketConn, error) {
	var out *flow
	dst := f.Dst()
	w, err := o.want(f, by)
	if err == nil {
		err = o.unserved(w)
	}
	if err != nil {
		return nil, err
	}
	err = o.each(ctx, w, dst.Addr(), func(ctx context.Context, k *carried, exit wire.NodeID) error {
		fl, err := dial(ctx, k)
		if err != nil {
			return err
		}
		out = &flow{Flow: fl, release: sync.OnceFunc(k.done), failed: func(err error) { o.judge(w.Key, dst.Addr(), exit, err) }}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Resolve has the exit's resolver answer, whatever server was asked, unless a flow
// of the same key has had the answer and it still holds.
func (o *onward) Resolve(ctx context.Context, f stack.Flow, query []byte) ([]byte, error) {
	if err := o.allowed(); err != nil {
		return nil, err
	}
	w, err := o.aim(f, ownerDNS, true)
	if err != nil {
		return nil, err
	}
	w.Brief = true
	if o.other != nil {
		w = o.avoiding(w)
	}
	answer, ticket := o.names.Get(dnscache.Group(w.Key), query, time.Now())
	if answer != nil {
		return answer, nil
	}
	err = o.each(ctx, w, netip.Addr{}, func(ctx context.Context, k *carried, _ wire.NodeID) error {
		a, err := k.client.Exchange(ctx, query)
		if err != nil {
			return err
		}
		k.done()
		answer = a
		return nil
	})
	if err == nil {
		o.names.Put(ticket, answer)
	}
	return answer, err
}

// DialContext connects to host:port through the exit, for calls of our own to
// the chain; names are resolved by the exit.
func (o *onward) DialContext(ctx context.Context, _, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, errors.New("want host:port")
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, errors.New("want a port from 1 to 65535")
	}
	addr, err := o.lookup(ctx, host)
	if err != nil {
		return nil, err
	}
	s, err := o.stream(ctx, stack.NewFlow(netip.AddrPort{}, netip.AddrPortFrom(addr, uint16(number))))
	if err != nil {
		return nil, err
	}
	return s, nil
}

// stream is a session's stream as the stack and net/http use it.
type stream struct {
	*session.Stream
	release func()
}

// Reset breaks the stream: the far end sees a reset.
func (s *stream) Reset() error {
	s.Stream.Reset(wire.CodeReset)
	return nil
}

// Close ends the stream and its use of the circuit.
func (s *stream) Close() error {
	defer s.release()
	return s.Stream.Close()
}

// flow is a session's UDP flow as the stack uses it.
type flow struct {
	*session.Flow
	release func()
	failed  func(error) // what the exit says of the destination
}

// Read reads one datagram; errors are those the stack knows.
func (f *flow) Read(p []byte) (int, error) {
	n, err := f.Flow.Read(p)
	if err != nil {
		f.failed(err)
	}
	return n, onwardError(err)
}

// WriteTo gives each datagram to w; errors are those of Read, or w's.
func (f *flow) WriteTo(w io.Writer) (int64, error) {
	n, err := f.Flow.WriteTo(w)
	f.failed(err)
	return n, onwardError(err)
}

// Each gives each datagram and its sender to take; errors are those of Read, or take's.
func (f *flow) Each(take func(p []byte, from netip.AddrPort) error) error {
	err := f.Flow.Each(take)
	f.failed(err)
	return onwardError(err)
}

// Close ends the flow and its use of the circuit.
func (f *flow) Close() error {
	defer f.release()
	return f.Flow.Close()
}

// onwardError turns what the exit said into what the stack tells programs.
func onwardError(err error) error {
	var e *session.Error
	if !errors.As(err, &e) {
		return err
	}
	switch e.Code {
	case wire.CodeRefused:
		return fmt.Errorf("%w: %w", stack.ErrRefused, err)
	case wire.CodeHostUnreachable:
		return fmt.Errorf("%w: %w", stack.ErrHostUnreachable, err)
	case wire.CodeNetworkUnreachable:
		return fmt.Errorf("%w: %w", stack.ErrNetUnreachable, err)
	case wire.CodeTimeout:
		return fmt.Errorf("%w: %w", stack.ErrTimeout, err)
	case wire.CodeForbidden:
		return fmt.Errorf("%w: %w", stack.ErrProhibited, err)
	default:
		return err // the program sees a reset
	}
}
