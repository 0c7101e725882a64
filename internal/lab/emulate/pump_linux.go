package emulate

import (
	"container/heap"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/tun"
)

const (
	headroom   = 16       // bytes in front of a packet, for the device's own header
	bufferSize = 2048     // holds headroom and one segment
	groSize    = 64 << 10 // capacity of a buffer into which the device may gather segments
	batchSize  = 128      // packets per write
	maxQueued  = 1 << 16  // packets under way in one pump; beyond that the newest are dropped
	mtu        = 1500
)

// Direction is the pair of addresses whose packets take a line.
type Direction struct{ From, To netip.Addr }

// Pump moves packets from a device through lines back into the device.
type Pump struct {
	device  tun.Device
	epoch   time.Time
	wake    int         // an eventfd: the writer sleeps on it
	closing atomic.Bool // errors of the device mean nothing any more

	mu     sync.Mutex // guards everything below
	lines  map[Direction]*queue
	due    queues
	queued int
	spare  [][]byte
	closed bool
}

// packet is one segment under way; the data begin at headroom.
type packet struct {
	buf     []byte
	size    int
	arrival time.Duration
}

// queue is a line with the packets under way on it, in order of arrival.
type queue struct {
	line    *Line
	packets []packet
	head    int
	index   int // in Pump.due; -1: empty
}

// queues is a heap by the arrival of the first packet.
type queues []*queue

func (q queues) Len() int           { return len(q) }
func (q queues) Less(i, j int) bool { return q[i].first() < q[j].first() }
func (q queues) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}
func (q *queues) Push(x any) { e := x.(*queue); e.index = len(*q); *q = append(*q, e) }
func (q *queues) Pop() any {
	old := *q
	e := old[len(old)-1]
	*q, e.index = old[:len(old)-1], -1
	return e
}

func (q *queue) first() time.Duration { return q.packets[q.head].arrival }

func (q *queue) pop() packet {
	p := q.packets[q.head]
	q.packets[q.head] = packet{}
	q.head++
	switch {
	case q.head == len(q.packets):
		q.packets, q.head = q.packets[:0], 0
	case q.head > 1024 && q.head > len(q.packets)/2:
		n := copy(q.packets, q.packets[q.head:])
		clear(q.packets[n:])
		q.packets, q.head = q.packets[:n], 0
	}
	return p
}

// NewPump takes over the device.
func NewPump(device tun.Device) (*Pump, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("make eventfd: %w", err)
	}
	return &Pump{device: device, epoch: time.Now(), wake: fd, lines: make(map[Direction]*queue)}, nil
}

// Set shapes a direction; the zero Shape lets its packets pass at once.
func (p *Pump) Set(d Direction, shape Shape, seed uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if q := p.lines[d]; q != nil {
		q.line.Reshape(shape)
		return
	}
	p.lines[d] = &queue{line: NewLine(shape, seed), index: -1}
}

// Run moves packets until the device is closed.
func (p *Pump) Run() error {
	written := make(chan error, 1)
	go func() { // ends when p.closed is set
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		written <- p.write()
	}()
	err := p.read()
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	err = errors.Join(err, p.rouse(), <-written, unix.Close(p.wake))
	return err
}

// Close ends Run.
func (p *Pump) Close() error {
	p.closing.Store(true)
	return p.device.Close()
}

// read admits packets until the device is closed.
func (p *Pump) read() error {
	bufs := make([][]byte, p.device.BatchSize())
	sizes := make([]int, len(bufs))
	for i := range bufs {
		bufs[i] = make([]byte, bufferSize)
	}
	for {
		n, err := p.device.Read(bufs, sizes, headroom)
		if errors.Is(err, os.ErrClosed) || err != nil && p.closing.Load() {
			return nil
		}
		if err != nil && n == 0 && !malformed(err) {
			return fmt.Errorf("read packets: %w", err)
		}
		if p.admit(bufs[:n], sizes[:n]) {
			if err := p.rouse(); err != nil {
				return err
			}
		}
	}
}

// malformed tells apart a packet that the device could not cut from a device
// that is gone.
func malformed(err error) bool {
	var errno unix.Errno
	return !errors.As(err, &errno)
}

// admit queues what was read, takes those buffers out of bufs and puts others
// in. It tells whether the writer must look again.
func (p *Pump) admit(bufs [][]byte, sizes []int) (rouse bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Since(p.epoch)
	next := time.Duration(1<<63 - 1)
	if len(p.due) > 0 {
		next = p.due[0].first()
	}
	for i, buf := range bufs {
		q := p.lines[directionOf(buf[headroom:headroom+sizes[i]])]
		if q == nil || p.queued >= maxQueued {
			continue
		}
		arrival, ok := q.line.Admit(now, sizes[i])
		if !ok {
			continue
		}
		q.packets = append(q.packets, packet{buf, sizes[i], arrival})
		p.queued++
		if q.index < 0 {
			heap.Push(&p.due, q)
		}
		rouse = rouse || arrival < next
		bufs[i] = p.buffer()
	}
	return rouse
}

// buffer takes a free one; p.mu is held.
func (p *Pump) buffer() []byte {
	if n := len(p.spare); n > 0 {
		b := p.spare[n-1]
		p.spare = p.spare[:n-1]
		return b
	}
	return make([]byte, bufferSize)
}

func directionOf(b []byte) Direction {
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		return Direction{netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))}
	case len(b) >= 40 && b[0]>>4 == 6:
		return Direction{netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))}
	}
	return Direction{}
}

// write sends what is due until the pump is closed.
func (p *Pump) write() error {
	staging := make([][]byte, batchSize)
	for i := range staging {
		staging[i] = make([]byte, headroom, groSize)
	}
	batch := make([]packet, 0, batchSize)
	for {
		var wait time.Duration
		var closed bool
		batch, wait, closed = p.take(batch[:0])
		if closed {
			return nil
		}
		if len(batch) == 0 {
			if err := p.sleep(wait); err != nil {
				return err
			}
			continue
		}
		out := staging[:len(batch)]
		for i, b := range batch {
			out[i] = append(out[i][:0], b.buf[:headroom+b.size]...)
		}
		// A packet that the kernel does not want is a packet lost.
		if _, err := p.device.Write(out, headroom); errors.Is(err, os.ErrClosed) {
			return nil
		}
		p.give(batch)
	}
}

// take moves what has arrived to batch, or says how long the next one takes
// (negative: none is under way).
func (p *Pump) take(batch []packet) (_ []packet, wait time.Duration, closed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Since(p.epoch)
	for len(p.due) > 0 && len(batch) < batchSize && p.due[0].first() <= now {
		q := p.due[0]
		for len(q.packets) > 0 && len(batch) < batchSize && q.first() <= now {
			b := q.pop()
			q.line.Arrived(b.size)
			p.queued--
			batch = append(batch, b)
		}
		if len(q.packets) == 0 {
			heap.Pop(&p.due)
		} else {
			heap.Fix(&p.due, 0)
		}
	}
	wait = -1
	if len(p.due) > 0 {
		wait = p.due[0].first() - now
	}
	return batch, wait, p.closed
}

// give returns buffers.
func (p *Pump) give(batch []packet) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, b := range batch {
		p.spare = append(p.spare, b.buf)
	}
}

// sleep waits for wait (negative: without end) or for rouse. The thread itself
// sleeps: the runtime's timers are late by up to a millisecond when idle.
func (p *Pump) sleep(wait time.Duration) error {
	fds := []unix.PollFd{{Fd: int32(p.wake), Events: unix.POLLIN}}
	var timeout *unix.Timespec
	if wait >= 0 {
		ts := unix.NsecToTimespec(wait.Nanoseconds())
		timeout = &ts
	}
	n, err := unix.Ppoll(fds, timeout, nil)
	if err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("wait for packets: %w", err)
	}
	if n > 0 {
		var count [8]byte
		if _, err := unix.Read(p.wake, count[:]); err != nil && !errors.Is(err, unix.EAGAIN) {
			return fmt.Errorf("read eventfd: %w", err)
		}
	}
	return nil
}

// rouse wakes the writer.
func (p *Pump) rouse() error {
	one := binary.NativeEndian.AppendUint64(nil, 1)
	if _, err := unix.Write(p.wake, one); err != nil && !errors.Is(err, unix.EAGAIN) {
		return fmt.Errorf("write eventfd: %w", err)
	}
	return nil
}
