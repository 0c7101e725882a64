// Package emulate makes a path between two nodes of the lab slow, lossy or
// narrow, in user space, for kernels without netem.
//
// The router namespace sends the packets of a shaped pair into a TUN device
// (policy rules from one address to the other); a Pump reads them, cut to
// segments of at most 1500 bytes, asks the pair's Line when each arrives, and
// writes them back for the kernel to route on. Pairs that nobody shapes never
// come here. The order of a direction is kept. Nothing is looked at but the
// addresses, nothing is stored or logged.
//
// Line and Shape are pure: time comes in as an argument. Pump is locked inside.
// cuttle-lab runs Serve in a process of its own inside the router namespace and
// speaks to it by Ask, over a unix socket.
package emulate

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"
)

// Shape is what one direction of a path does to packets. The zero Shape leaves
// them alone.
type Shape struct {
	Delay  time.Duration `json:"delay"`
	Jitter time.Duration `json:"jitter"` // each packet's delay varies by up to this, up and down; order is kept
	Loss   float64       `json:"loss"`   // probability that a packet is lost, 0 to 1
	Rate   int64         `json:"rate"`   // bits per second of IP packets; 0: no limit
	Down   bool          `json:"down"`   // nothing passes
}

// QueueTime is how long a packet may wait for a line's rate; one that would
// wait longer is dropped.
const QueueTime = 50 * time.Millisecond

// maxLineBytes bounds what is under way on one line without a rate.
const maxLineBytes = 64 << 20

// IsZero tells whether packets are left alone.
func (s Shape) IsZero() bool { return s == Shape{} }

// Check refuses values that make no sense.
func (s Shape) Check() error {
	switch {
	case s.Delay < 0 || s.Delay > time.Minute:
		return errors.New("delay must be between 0 and 1m")
	case s.Jitter < 0 || s.Jitter > time.Minute:
		return errors.New("jitter must be between 0 and 1m")
	case !(s.Loss >= 0 && s.Loss <= 1):
		return errors.New("loss must be between 0% and 100%")
	case s.Rate < 0 || s.Rate > 0 && s.Rate < 8000:
		return errors.New("rate must be 0 or at least 8kbit")
	}
	return nil
}

// ParseLoss reads "0.5%" or a bare number, which is in percent too.
func ParseLoss(text string) (float64, error) {
	v, err := strconv.ParseFloat(strings.TrimSuffix(text, "%"), 64)
	if err != nil || !(v >= 0 && v <= 100) {
		return 0, fmt.Errorf("loss %q: want a percentage such as 0.5%%", text)
	}
	return v / 100, nil
}

var rateUnits = []struct {
	suffix string
	bits   float64
}{{"kbit", 1e3}, {"mbit", 1e6}, {"gbit", 1e9}, {"bit", 1}}

// ParseRate reads "100mbit" (kbit, mbit, gbit, bit: powers of 1000 per second)
// as bits per second; "0" is no limit.
func ParseRate(text string) (int64, error) {
	number, unit := strings.ToLower(text), 1.0
	for _, u := range rateUnits {
		if rest, ok := strings.CutSuffix(number, u.suffix); ok {
			number, unit = rest, u.bits
			break
		}
	}
	v, err := strconv.ParseFloat(number, 64)
	if bits := v * unit; err == nil && bits >= 0 && bits <= 1e12 {
		return int64(bits), nil
	}
	return 0, fmt.Errorf("rate %q: want a number and kbit, mbit or gbit", text)
}

// Line is one direction between two nodes. Times are durations since any fixed
// moment and must not run backwards. Not safe for concurrent use.
type Line struct {
	shape  Shape
	random *rand.Rand
	free   time.Duration // when the last admitted packet has been sent at the line's rate
	last   time.Duration // when the last admitted packet arrives
	under  int           // bytes under way
}

// NewLine makes a line whose losses and jitter depend on the seed alone.
func NewLine(shape Shape, seed uint64) *Line {
	return &Line{shape: shape, random: rand.New(rand.NewPCG(seed, 0x6375_7474_6c65))}
}

// Reshape changes the shape; what is under way is not touched.
func (l *Line) Reshape(shape Shape) { l.shape = shape }

// Admit takes a packet of size bytes at now and says when it arrives, or that
// it is lost or did not fit. A packet lost on the way has used the rate.
func (l *Line) Admit(now time.Duration, size int) (arrival time.Duration, ok bool) {
	s := l.shape
	if s.Down || l.under+size > maxLineBytes {
		return 0, false
	}
	sent := now
	if s.Rate > 0 {
		start := max(now, l.free)
		if start-now > QueueTime {
			return 0, false
		}
		sent = start + time.Duration(int64(size)*8*int64(time.Second)/s.Rate)
		l.free = sent
	}
	if s.Loss > 0 && l.random.Float64() < s.Loss {
		return 0, false
	}
	arrival = sent + s.Delay
	if s.Jitter > 0 {
		arrival += time.Duration(l.random.Int64N(2*int64(s.Jitter)+1)) - s.Jitter
	}
	l.last = max(arrival, l.last, now)
	l.under += size
	return l.last, true
}

// Arrived tells that an admitted packet of size bytes has left the line.
func (l *Line) Arrived(size int) { l.under -= size }
