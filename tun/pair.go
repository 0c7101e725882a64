package tun

import (
	"sync"
)

// pairQueue is how many packets wait in one direction of a Pair; more are
// dropped, as a kernel's interface queue does.
const pairQueue = 1024

// Pair returns two devices joined back to back: what is written to one is read
// from the other, offloads included, as a kernel's virtual cable would do. It
// is for tests and for programs that are their own network; it needs no rights
// and no goroutine.
func Pair(mtu int) (Device, Device) {
	ab, ba := newWire(), newWire()
	a := &end{name: "pair0", mtu: mtu, in: ba, out: ab}
	b := &end{name: "pair1", mtu: mtu, in: ab, out: ba}
	return a, b
}

// end is one of the two devices of a Pair.
type end struct {
	name    string
	mtu     int
	in, out *wire
}

func (e *end) Name() string                   { return e.name }
func (e *end) MTU() int                       { return e.mtu }
func (e *end) Offloads() bool                 { return true }
func (e *end) Read(ps []Packet) (int, error)  { return e.in.take(ps) }
func (e *end) Write(vs []Vector) (int, error) { return e.out.put(vs) }

func (e *end) Close() error {
	e.in.close()
	e.out.close()
	return nil
}

// wire is one direction: a bounded queue of copies. Its mutex guards all its
// fields.
type wire struct {
	mu     sync.Mutex
	some   *sync.Cond
	queue  []Packet
	spare  [][]byte // buffers of packets that were read
	closed bool
}

func newWire() *wire {
	w := &wire{}
	w.some = sync.NewCond(&w.mu)
	return w
}

func (w *wire) put(vs []Vector) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return 0, ErrClosed
	}
	n := 0
	for i := range vs {
		if len(w.queue) == pairQueue {
			break
		}
		var b []byte
		if last := len(w.spare) - 1; last >= 0 {
			b, w.spare = w.spare[last][:0], w.spare[:last]
		}
		for _, piece := range vs[i].Pieces {
			b = append(b, piece...)
		}
		w.queue = append(w.queue, Packet{Data: b, Offload: vs[i].Offload})
		n++
	}
	if n > 0 {
		w.some.Signal()
	}
	return n, nil
}

func (w *wire) take(ps []Packet) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.queue) == 0 && !w.closed {
		w.some.Wait()
	}
	if w.closed {
		return 0, ErrClosed
	}
	n := min(len(ps), len(w.queue))
	for i := range n {
		p := w.queue[i]
		ps[i].Data = ps[i].Data[:copy(ps[i].Data[:cap(ps[i].Data)], p.Data)]
		ps[i].Offload = p.Offload
		if len(w.spare) < pairQueue {
			w.spare = append(w.spare, p.Data)
		}
		w.queue[i] = Packet{}
	}
	w.queue = w.queue[:copy(w.queue, w.queue[n:])]
	return n, nil
}

func (w *wire) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	w.queue, w.spare = nil, nil
	w.some.Broadcast()
}
