// Package sessiontest is the in-memory twin of a circuit, for tests of sessions
// and of what stands on them: two carriers whose packets reach each other through
// bounded queues.
//
// It does no encryption and no sockets. Each direction has one goroutine, which
// ends when either side is closed. Delay and Lose are set before Join.
package sessiontest

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"cuttle/relay/wire"
)

// ErrClosed is what Send returns once the pair is closed.
var ErrClosed = errors.New("carrier closed")

type handler = func(kind byte, class wire.Class, p []byte) error

type packet struct {
	kind  byte
	class wire.Class
	n     int
	at    time.Time
	b     [wire.SessionPacketSize]byte
}

var packets = sync.Pool{New: func() any { return new(packet) }}

// Carrier is one side of a pair; it satisfies session.Carrier.
type Carrier struct {
	// Delay is how long each packet that this side sends is under way.
	Delay time.Duration
	// Lose, if set, tells which of the packets that this side sends get lost. It is
	// called by one goroutine.
	Lose func(class wire.Class, p []byte) bool
	// Dead, once set, means that everything this side sends is lost: a path that has
	// gone silent.
	Dead atomic.Bool

	to   atomic.Pointer[handler]
	out  chan *packet
	pair *pair
}

type pair struct {
	once sync.Once
	done chan struct{}
	work sync.WaitGroup
}

// Pipe makes two carriers whose queues hold depth packets each; 128 is what a
// circuit starts with.
func Pipe(depth int) (a, b *Carrier) {
	p := &pair{done: make(chan struct{})}
	return &Carrier{out: make(chan *packet, depth), pair: p}, &Carrier{out: make(chan *packet, depth), pair: p}
}

// Attach sets who takes what the other side sends, before it sends anything.
func (c *Carrier) Attach(h handler) { c.to.Store(&h) }

// Join starts to deliver what each side sends to the Handler of the other. An
// error of either closes the pair, as it would close a circuit.
func Join(a, b *Carrier) {
	a.pair.work.Go(func() { a.deliver(b) }) // ends when the pair is closed
	b.pair.work.Go(func() { b.deliver(a) }) // ends when the pair is closed
}

// Wait waits for the goroutines that Join started, after Close.
func (c *Carrier) Wait() { c.pair.work.Wait() }

func (c *Carrier) deliver(to *Carrier) {
	for {
		select {
		case <-c.pair.done:
			return
		case p := <-c.out:
			if c.Delay > 0 && !c.wait(p.at.Add(c.Delay)) {
				return
			}
			if !c.Dead.Load() && (c.Lose == nil || !c.Lose(p.class, p.b[:p.n])) {
				h := to.to.Load()
				if h == nil || (*h)(p.kind, p.class, p.b[:p.n]) != nil {
					c.Close()
					return
				}
			}
			packets.Put(p)
			select { // nothing is delivered behind what the end took
			case <-c.pair.done:
				return
			default:
			}
		}
	}
}

func (c *Carrier) wait(until time.Time) bool {
	left := time.Until(until)
	if left <= 0 {
		return true
	}
	t := time.NewTimer(left)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-c.pair.done:
		return false
	}
}

// Send copies b and queues it; it blocks while the queue is full.
func (c *Carrier) Send(kind byte, class wire.Class, b []byte) error {
	p := packets.Get().(*packet)
	p.kind, p.class, p.n = kind, class, copy(p.b[:], b)
	if c.Delay > 0 {
		p.at = time.Now()
	}
	select {
	case <-c.pair.done:
		return ErrClosed
	default:
	}
	select {
	case c.out <- p:
		return nil
	case <-c.pair.done:
		return ErrClosed
	}
}

// SendAll is Send for packets that follow each other.
func (c *Carrier) SendAll(kind byte, class wire.Class, packets [][]byte) error {
	for _, p := range packets {
		if err := c.Send(kind, class, p); err != nil {
			return err
		}
	}
	return nil
}

// Close ends both sides.
func (c *Carrier) Close() { c.pair.once.Do(func() { close(c.pair.done) }) }

// Done is closed when either side was closed.
func (c *Carrier) Done() <-chan struct{} { return c.pair.done }
