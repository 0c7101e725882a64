package emulate

import (
	"math"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestLineDelays(t *testing.T) {
	l := NewLine(Shape{Delay: 25 * time.Millisecond}, 1)
	for _, now := range []time.Duration{0, time.Millisecond, time.Second} {
		if got, ok := l.Admit(now, 1500); !ok || got != now+25*time.Millisecond {
			t.Errorf("Admit(%v) = %v, %v; want %v", now, got, ok, now+25*time.Millisecond)
		}
	}
}

func TestLineKeepsOrderUnderJitter(t *testing.T) {
	s := Shape{Delay: 20 * time.Millisecond, Jitter: 5 * time.Millisecond}
	l := NewLine(s, 7)
	var last time.Duration
	var spread bool
	for i := range 10_000 {
		now := time.Duration(i) * 20 * time.Millisecond // far enough apart for jitter to show
		got, ok := l.Admit(now, 100)
		if !ok || got < last {
			t.Fatalf("packet %d arrives at %v after one at %v", i, got, last)
		}
		last = got
		if d := got - now; d < 15*time.Millisecond || d > 25*time.Millisecond {
			t.Fatalf("packet %d takes %v, want 15ms to 25ms", i, d)
		} else if d < 16*time.Millisecond || d > 24*time.Millisecond {
			spread = true
		}
	}
	if !spread {
		t.Error("the jitter does not use its range")
	}
	dense := NewLine(s, 7)
	for i := range 10_000 {
		got, _ := dense.Admit(time.Duration(i)*time.Microsecond, 100)
		if got < last && i > 0 {
			t.Fatalf("packet %d overtakes", i)
		}
		last = got
	}
}

func TestLineLoses(t *testing.T) {
	const n = 200_000
	l := NewLine(Shape{Loss: 0.005}, 3)
	lost := 0
	for i := range n {
		if _, ok := l.Admit(time.Duration(i), 1500); !ok {
			lost++
		} else {
			l.Arrived(1500)
		}
	}
	if got := float64(lost) / n; math.Abs(got-0.005) > 0.0008 { // five standard deviations
		t.Errorf("lost %.4f of the packets, want 0.005", got)
	}
	again := NewLine(Shape{Loss: 0.5}, 3)
	other := NewLine(Shape{Loss: 0.5}, 3)
	for i := range 1000 {
		_, a := again.Admit(time.Duration(i), 1)
		_, b := other.Admit(time.Duration(i), 1)
		if a != b {
			t.Fatal("two lines of one seed lose different packets")
		}
	}
}

func TestLineRateAndQueue(t *testing.T) {
	l := NewLine(Shape{Rate: 12_000_000}, 1) // 1500 bytes take 1 ms
	var admitted int
	var last time.Duration
	for range 200 { // all at once: the queue holds 50 ms
		if got, ok := l.Admit(0, 1500); ok {
			admitted++
			last = got
		}
	}
	if admitted != 51 || last != 51*time.Millisecond {
		t.Errorf("admitted %d, last arrives at %v; want 51 (one being sent and 50 ms of queue) and 51ms", admitted, last)
	}
	if got, ok := l.Admit(time.Second, 1500); !ok || got != time.Second+time.Millisecond {
		t.Errorf("an idle line takes %v, %v; want 1ms more than now", got, ok)
	}
	const seconds = 10
	l = NewLine(Shape{Rate: 100_000_000}, 1)
	bytes := 0
	for now := time.Duration(0); now < seconds*time.Second; now += 50 * time.Microsecond { // offers 240 Mbit/s
		if _, ok := l.Admit(now, 1500); ok {
			bytes += 1500
			l.Arrived(1500)
		}
	}
	if got := float64(bytes) * 8 / seconds; math.Abs(got/100e6-1) > 0.01 {
		t.Errorf("passes %.1f Mbit/s, want 100", got/1e6)
	}
}

func TestLineDownAndBounded(t *testing.T) {
	if _, ok := NewLine(Shape{Down: true}, 1).Admit(0, 1); ok {
		t.Error("a line that is down passes a packet")
	}
	l := NewLine(Shape{Delay: time.Second}, 1)
	n := 0
	for {
		if _, ok := l.Admit(0, 1500); !ok {
			break
		}
		n += 1500
	}
	if n > maxLineBytes || n < maxLineBytes-1500 {
		t.Errorf("%d bytes are under way, want at most %d", n, maxLineBytes)
	}
	l.Arrived(1500)
	if _, ok := l.Admit(0, 1500); !ok {
		t.Error("a packet does not fit though one has arrived")
	}
}

func TestParse(t *testing.T) {
	for _, c := range []struct {
		text string
		want int64
		ok   bool
	}{
		{"100mbit", 100e6, true}, {"1.5Gbit", 1.5e9, true}, {"64kbit", 64000, true}, {"9600", 9600, true}, {"0", 0, true},
		{"8000bit", 8000, true}, {"", 0, false}, {"fast", 0, false}, {"-1mbit", 0, false}, {"1e30gbit", 0, false}, {"NaN", 0, false},
	} {
		if got, err := ParseRate(c.text); got != c.want || (err == nil) != c.ok {
			t.Errorf("ParseRate(%q) = %d, %v; want %d, ok %v", c.text, got, err, c.want, c.ok)
		}
	}
	for _, c := range []struct {
		text string
		want float64
		ok   bool
	}{{"0.5%", 0.005, true}, {"2", 0.02, true}, {"0", 0, true}, {"100%", 1, true}, {"101%", 0, false}, {"x", 0, false}, {"NaN%", 0, false}} {
		if got, err := ParseLoss(c.text); got != c.want || (err == nil) != c.ok {
			t.Errorf("ParseLoss(%q) = %v, %v; want %v, ok %v", c.text, got, err, c.want, c.ok)
		}
	}
}

func TestCheck(t *testing.T) {
	for _, s := range []Shape{{Delay: -1}, {Delay: time.Hour}, {Jitter: -1}, {Loss: 1.1}, {Loss: math.NaN()}, {Rate: 10}, {Rate: -1}} {
		if s.Check() == nil {
			t.Errorf("Check(%+v) = nil, want an error", s)
		}
	}
	if err := (Shape{Delay: time.Second, Jitter: time.Second, Loss: 1, Rate: 8000, Down: true}).Check(); err != nil {
		t.Errorf("Check = %v, want nil", err)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"100mbit", "0.5%", "", "1e400gbit", "-0", "0x1pbit"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if v, err := ParseRate(text); err == nil && (v < 0 || v > 1e12) {
			t.Errorf("ParseRate(%q) = %d", text, v)
		}
		if v, err := ParseLoss(text); err == nil && !(v >= 0 && v <= 1) {
			t.Errorf("ParseLoss(%q) = %v", text, v)
		}
	})
}

func BenchmarkAdmit(b *testing.B) {
	l := NewLine(Shape{Delay: time.Millisecond, Jitter: time.Microsecond, Loss: 0.01, Rate: 10e9}, 1)
	b.ReportAllocs()
	var now time.Duration
	for b.Loop() {
		now += 1200
		if _, ok := l.Admit(now, 1500); ok {
			l.Arrived(1500)
		}
	}
}
