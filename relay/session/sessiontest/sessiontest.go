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
	"time"

	"cuttle/relay/wire"
)

// ErrClosed is what Send returns once the pair is closed.
var ErrClosed = errors.New("carrier closed")

type packet struct {
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

// Join starts to deliver: what a sends goes to toB, what b sends to toA. An error
// of either closes the pair, as it would close a circuit.
func Join(a *Carrier, toA func(wire.Class, []byte) error, b *Carrier, toB func(wire.Class, []byte) error) {
	a.pair.work.Go(func() { a.deliver(toB) }) // ends when the pair is closed
	a.pair.work.Go(func() { b.deliver(toA) }) // ends when the pair is closed
}

// Wait waits for the goroutines that Join started, after Close.
func (c *Carrier) Wait() { c.pair.work.Wait() }

func (c *Carrier) deliver(to func(wire.Class, []byte) error) {
	for {
		select {
		case <-c.pair.done:
			return
		case p := <-c.out:
			if c.Delay > 0 && !c.wait(p.at.Add(c.Delay)) {
				return
			}
			if c.Lose == nil || !c.Lose(p.class, p.b[:p.n]) {
				if to(p.class, p.b[:p.n]) != nil {
					c.Close()
					return
				}
			}
			packets.Put(p)
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
func (c *Carrier) Send(class wire.Class, b []byte) error {
	p := packets.Get().(*packet)
	p.class, p.n = class, copy(p.b[:], b)
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

// Close ends both sides.
func (c *Carrier) Close() { c.pair.once.Do(func() { close(c.pair.done) }) }

// Done is closed when either side was closed.
func (c *Carrier) Done() <-chan struct{} { return c.pair.done }
