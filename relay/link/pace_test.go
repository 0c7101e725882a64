package link

import (
	"slices"
	"testing"
	"time"
)

// narrow is a path that delivers rate bytes a second and loses what is sent faster,
// beside a share of everything, as seen every tenth of a second by who would send as
// fast as BBR's startup does.
type narrow struct {
	rate      uint64
	lost      float64
	startup   bool
	s         sending
	fastest   uint64 // sent at in the last tenth
	delivered uint64
	now       time.Duration
}

const segment = 1448

func (n *narrow) step(p *pacer) {
	n.fastest = n.rate * 289 / 100
	if p.bound != 0 {
		n.fastest = min(n.fastest, p.bound)
	}
	through := min(n.fastest, n.rate)
	lost := float64(n.fastest-through) + float64(through)*n.lost
	n.s.segments += uint32(n.fastest / 10 / segment)
	n.s.repeated += uint32(lost / 10 / segment)
	n.s.rate, n.s.startup = through, n.startup
	n.delivered += through / 10
	n.now += time.Second / 10
	p.judge(n.s, n.now)
}

func TestPacer(t *testing.T) {
	const mbit100 = 100e6 / 8
	for _, tt := range []struct {
		name     string
		path     narrow
		bounded  bool
		repeated float64 // most of what is sent, after the first second
	}{
		{"startup", narrow{rate: mbit100, startup: true}, true, 0.05},
		{"a little loss", narrow{rate: mbit100, lost: 0.005, startup: true}, true, 0.06},
		{"not in startup", narrow{rate: mbit100}, false, 1},
		{"loss at any rate", narrow{rate: mbit100, lost: 0.2, startup: true}, false, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := tt.path
			var p pacer
			for range 10 {
				n.step(&p)
			}
			before, seconds := n, 20
			n.delivered = 0
			bounded := 0
			for range 10 * seconds {
				n.step(&p)
				if p.bound != 0 {
					bounded++
				}
			}
			if most := bounded > 5*seconds; most != tt.bounded {
				t.Errorf("bounded in %d of %d looks, want most: %v", bounded, 10*seconds, tt.bounded)
			}
			if share := float64(n.s.repeated-before.s.repeated) / float64(n.s.segments-before.s.segments); share > tt.repeated {
				t.Errorf("%.2f of what was sent was sent again, want at most %.2f", share, tt.repeated)
			}
			if share := float64(n.delivered) / float64(seconds) / mbit100; share < 0.97 {
				t.Errorf("%.2f of the rate was used", share)
			}
		})
	}
}

// TestPacerFollows: a path that becomes faster is found to be so, one that becomes
// slower, too, and few segments say nothing.
func TestPacerFollows(t *testing.T) {
	n := narrow{rate: 1e6, startup: true}
	var p pacer
	for range 20 {
		n.step(&p)
	}
	if p.bound == 0 {
		t.Fatal("no bound")
	}
	n.rate = 8e6
	for range 100 {
		n.step(&p)
	}
	if n.fastest < 7e6 {
		t.Errorf("sends at %d bytes a second where the path takes %d", n.fastest, n.rate)
	}
	n.rate = 1e6
	for range 50 {
		n.step(&p)
	}
	if n.fastest > 13e5 {
		t.Errorf("sends at %d bytes a second where the path takes %d", n.fastest, n.rate)
	}
	var few pacer
	if few.judge(sending{segments: 20, repeated: 10, rate: 1e6, startup: true}, time.Second) != 0 {
		t.Error("20 segments were enough for a bound")
	}
}

// TestPacerLeavesTheThin: a connection that sends little has a low rate because nobody
// asks for more, and its losses say nothing of the path; nor does it keep a bound of
// busier times.
func TestPacerLeavesTheThin(t *testing.T) {
	n := narrow{rate: 1e6, startup: true}
	var p pacer
	for range 20 {
		n.step(&p)
	}
	if p.bound == 0 {
		t.Fatal("no bound")
	}
	n.s.rate = 30_000
	for i := range 1000 {
		n.now += time.Second / 10
		n.s.segments += 2
		if i%8 == 0 {
			n.s.repeated++
		}
		if p.judge(n.s, n.now); p.bound != 0 && i > 30 {
			t.Fatalf("bound to %d bytes a second after %d looks", p.bound, i)
		}
	}
}

// TestPacerRemembers: a rate far below the best that holds up what there is to send
// is measured anew, once; when that does not help, the path is believed.
func TestPacerRemembers(t *testing.T) {
	for _, tt := range []struct {
		name  string
		looks []sending // after one at 9 MB a second
		anew  int
	}{
		{"held up", []sending{{rate: 2e6, held: true}, {rate: 2e6, held: true}, {rate: 2e6, held: true}}, 1},
		{"nothing more to send", []sending{{rate: 2e6}, {rate: 2e6}, {rate: 2e6}, {rate: 2e6}}, 0},
		{"now and then", []sending{{rate: 2e6, held: true}, {rate: 2e6, held: true}, {rate: 2e6}, {rate: 2e6, held: true}, {rate: 2e6, held: true}}, 0},
		{"near the best", []sending{{rate: 7e6, held: true}, {rate: 7e6, held: true}, {rate: 7e6, held: true}, {rate: 7e6, held: true}}, 0},
		{"measuring", []sending{{rate: 2e6, held: true, startup: true}, {rate: 2e6, held: true, startup: true}, {rate: 2e6, held: true, startup: true}}, 0},
		{"slower path", slices.Repeat([]sending{{rate: 2e6, held: true}}, 50), 1},
		{"again and again", slices.Repeat([]sending{{rate: 2e6, held: true}, {rate: 2e6, held: true}, {rate: 2e6, held: true}, {rate: 9e6, held: true}}, 5), 5},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var p pacer
			anew := 0
			for i, s := range append([]sending{{rate: 9e6, held: true}}, tt.looks...) {
				if p.forgotten(s, time.Duration(i+1)*paceAgain) {
					anew++
				}
			}
			if anew != tt.anew {
				t.Errorf("measured anew %d times, want %d", anew, tt.anew)
			}
		})
	}
}

// TestFar: a link counts as far by what is under way on it.
func TestFar(t *testing.T) {
	for want, s := range map[bool]sending{true: {rate: 30e6, trip: 50 * time.Millisecond}, false: {rate: 9e6, trip: 100 * time.Millisecond}} {
		if s.far() != want {
			t.Errorf("%d bytes a second, %v: far is %v", s.rate, s.trip, !want)
		}
	}
}

// TestPacerRests: BBR is not told again and again in a short time.
func TestPacerRests(t *testing.T) {
	var p pacer
	anew := 0
	for i := range 100 { // ten seconds
		now := time.Duration(i) * paceLook
		rate := uint64(2e6)
		if i%5 == 0 {
			rate = 9e6
		}
		if p.forgotten(sending{rate: rate, held: true}, now) {
			anew++
		}
	}
	if anew != 2 {
		t.Errorf("measured anew %d times in ten seconds, want twice", anew)
	}
}
