package session

import (
	"testing"
	"testing/synctest"
	"time"

	"cuttle/relay/wire"
)

// path is a pipe of packets with a least trip and a rate, on a clock of its own;
// what does not fit waits in front of it.
type path struct {
	f       flight
	now     time.Time
	trip    time.Duration
	rate    float64 // packets a second
	free    time.Time
	sent    []time.Time // when each packet's acknowledgement arrives
	acked   int
	longest time.Duration // of the waits since the last look
	repair  time.Duration // a loss on the way delays everything by as much, again and again
}

func newPath(trip time.Duration, rate float64) *path {
	p := &path{now: time.Unix(1_000_000, 0), trip: trip, rate: rate}
	p.free = p.now
	p.f.reset(queueTimeDown, 0)
	return p
}

// run sends as much as the bound lets for d.
func (p *path) run(d time.Duration) {
	for end := p.now.Add(d); p.now.Before(end); {
		for wire.Number(len(p.sent)-p.acked) < p.f.bound() {
			if !p.f.timing {
				p.f.sent(wire.Number(len(p.sent)), wire.Number(p.acked), p.now)
			}
			if p.free.Before(p.now) {
				p.free = p.now
			}
			p.free = p.free.Add(time.Duration(float64(time.Second) / p.rate))
			p.longest = max(p.longest, p.free.Sub(p.now))
			p.sent = append(p.sent, p.free.Add(p.trip+p.repair))
		}
		p.f.reached = true
		next := min(p.acked+ackPackets, len(p.sent)) // acknowledged in groups, as a peer does
		p.now = p.sent[next-1]
		p.acked = next
		p.f.acknowledged(wire.Number(next), p.now)
	}
}

// look tells the longest wait and the packets delivered a second in the next d.
func (p *path) look(d time.Duration) (wait time.Duration, rate float64) {
	p.longest = 0
	before, start := p.acked, p.now
	p.run(d)
	return p.longest, float64(p.acked-before) / p.now.Sub(start).Seconds()
}

// TestFlight: the bound fills a path and leaves a short queue, on near and far
// paths, and follows the path when it changes.
func TestFlight(t *testing.T) {
	tests := []struct {
		name string
		trip time.Duration
		rate float64
	}{
		{"near", time.Millisecond, 8000},
		{"far", 150 * time.Millisecond, 8000},
		{"slow", 40 * time.Millisecond, 800},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := newPath(tt.trip, tt.rate)
			p.run(3 * time.Second)
			check := func(when string) {
				t.Helper()
				wait, got := p.look(12 * time.Second) // with a look for the least trip
				// The least trip is measured with leastFlight packets under way.
				least := p.trip + time.Duration(leastFlight*float64(time.Second)/p.rate)
				most := (least + max(queueTrips*least, queueTimeDown)) * 3 / 2
				if wait > most || got < 0.9*p.rate {
					t.Errorf("%s: %.0f packets/s of %.0f, waits of up to %v, want 0.9 of the rate and %v", when, got, p.rate, wait, most)
				}
			}
			check("at first")
			p.trip *= 3
			p.run(30 * time.Second) // a look for the least trip, or more
			check("three times as far")
			p.trip /= 3
			p.run(30 * time.Second) // a look for the least trip, or more
			check("as before")
			p.rate /= 4
			p.run(30 * time.Second) // a look for the least trip, or more
			check("at a quarter of the rate")
		})
	}
}

// TestFlightRamp: on a far path the bound doubles with each trip until it is filled,
// and looks for the least trip cost next to nothing.
func TestFlightRamp(t *testing.T) {
	p := newPath(150*time.Millisecond, 20000)
	p.run(6 * p.trip) // 256 packets, then 512, 1024, 2048, 4096 where there is room for 3000
	if _, got := p.look(time.Second); got < 0.95*p.rate {
		t.Errorf("%.0f packets/s of %.0f after six trips", got, p.rate)
	}
	if _, got := p.look(3 * leastAge); got < 0.97*p.rate {
		t.Errorf("%.0f packets/s of %.0f in the long run", got, p.rate)
	}
}

// TestFlightStart: what is sent at first goes by the length of the path, if it is known
// or the peer tells, until something has been measured.
func TestFlightStart(t *testing.T) {
	var f flight
	for trip, want := range map[time.Duration]wire.Number{0: startFlight, time.Millisecond: startFlight, 150 * time.Millisecond: 1800, time.Minute: mostStart} {
		if f.reset(queueTimeDown, trip); f.bound() != want {
			t.Errorf("a path with a trip of %v is given %d packets at first, want %d", trip, f.bound(), want)
		}
	}
	f.reset(queueTimeDown, 0)
	if f.start(startFlight); f.bound() != startFlight || f.start(100) {
		t.Errorf("%d packets may be under way since the peer expects few", f.bound())
	}
	if !f.start(1800) || f.bound() != 1800 || f.start(1800) || !f.start(1<<40) || f.bound() != mostStart {
		t.Errorf("%d packets may be under way since the peer expects many", f.bound())
	}
	p := newPath(150*time.Millisecond, 2000)
	p.run(2 * time.Second)
	if before := p.f.bound(); p.f.start(mostStart) || p.f.bound() != before {
		t.Errorf("what the peer expects counts for a path that has been measured: %d packets after %d", p.f.bound(), before)
	}
}

// TestFlightRampWithLosses: on a path whose trips are two and a half of the least, since
// something on the way is always being repaired, the bound doubles all the same.
func TestFlightRampWithLosses(t *testing.T) {
	p := newPath(150*time.Millisecond, 20000)
	p.run(p.trip) // the least trip is seen once
	p.repair = p.trip * 3 / 2
	p.run(8 * (p.trip + p.repair))
	if _, got := p.look(time.Second); got < 0.9*p.rate {
		t.Errorf("%.0f packets/s of %.0f after eight trips", got, p.rate)
	}
}

// TestTurns: who had nothing to send goes before those that always have, who go
// one after the other; and who asks again at once is not new.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var turns turns
		var order []string
		places := map[string]*place{}
		enter := func(name string) {
			p := places[name]
			if p == nil {
				p = &place{ready: make(chan struct{}, 1)}
				places[name] = p
			}
			go func() { // ends with its turn, which the test gives
				turns.enter(p)
				order = append(order, name)
			}()
			synctest.Wait()
		}
		leave := func() { turns.leave(); synctest.Wait() }
		for _, bulk := range []string{"a", "b", "c"} {
			enter(bulk)
		}
		for _, bulk := range []string{"a", "b", "c"} {
			leave()
			enter(bulk)
		}
		enter("short")
		if !turns.waited() {
			t.Error("nobody is said to wait")
		}
		for range 4 {
			leave()
		}
		leave()
		if turns.waited() || turns.taken {
			t.Error("somebody is said to wait, or to have the turn, after all have left")
		}
		got := ""
		for _, name := range order {
			got += name + " "
		}
		if want := "a b c a short b c "; got != want {
			t.Errorf("turns: got %q, want %q", got, want)
		}
	})
}

// TestShortBesideBulk: the bytes of a stream that has said nothing for a while are
// not behind those that others have to send, with which the window is full.
func TestShortBesideBulk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newRecorder(1 << 14)
		m := muxOn(c, Config{})
		defer func() { m.close() }()
		const bulk = 8
		for i := range bulk {
			s, _ := benchStreams(m, m, wire.StreamID(i+1))
			s.credits = 1 << 30
			go func() { _, _ = s.Write(make([]byte, 4<<20)) }() // ends with the session
		}
		acknowledge := func() {
			t.Helper()
			m.trunk.receiving.Lock()
			defer m.trunk.receiving.Unlock()
			if err := m.trunk.acknowledge(wire.Number(len(c.sent))); err != nil {
				t.Fatal(err)
			}
		}
		for range 4 { // until all have had turns
			synctest.Wait()
			acknowledge()
		}
		synctest.Wait()
		before := len(c.sent)
		if got := wire.Number(before); got != m.trunk.until.Load() {
			t.Errorf("sent before anything is acknowledged: %d packets, want %d", got, m.trunk.until.Load())
		}
		short, _ := benchStreams(m, m, bulk+1)
		go func() { _, _ = short.Write([]byte("short")) }() // ends with the turn
		synctest.Wait()
		acknowledge()
		synctest.Wait()
		place := -1
		for i := range len(c.sent) {
			f, _, err := wire.NextSessionFrame(<-c.sent)
			if err != nil {
				t.Fatal(err)
			}
			if f.Stream == short.id {
				place = i - before
			}
		}
		// Bulk that the scheduler has held up for two rounds counts as short, too.
		if place < 0 || place > 3*turnPackets {
			t.Errorf("the short stream's packet is number %d after the acknowledgement, want one of the first %d: others have %d to send", place, 3*turnPackets, bulk*turnPackets)
		}
	})
}

// TestKeepsHalfWithoutCarrier: a session whose carrier is lost goes on taking bytes,
// but no more than half of what it may keep while acknowledgements show a path.
func TestKeepsHalfWithoutCarrier(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newRecorder(1 << 14)
		m := muxOn(c, Config{Window: 4 << 20})
		defer func() { m.close() }()
		s, _ := benchStreams(m, m, 1)
		s.credits = 1 << 30
		go func() { _, _ = s.Write(make([]byte, 8<<20)) }() // ends with the session
		synctest.Wait()
		if !m.trunk.lose(m.trunk.current) {
			t.Fatal("there is no carrier to lose")
		}
		synctest.Wait()
		m.trunk.mu.Lock()
		defer m.trunk.mu.Unlock()
		if got, want := m.trunk.kept.slabs, m.trunk.most/2; got != want {
			t.Errorf("without a carrier %d slabs are kept, want %d", got, want)
		}
	})
}

// TestFlightLooksLess: on a path whose least trip never shows, since something is always
// being repaired, looks for it become rare, and frequent again when the path has changed.
func TestFlightLooksLess(t *testing.T) {
	p := newPath(100*time.Millisecond, 2000)
	looks := func(d time.Duration) (n int) {
		for end := p.now.Add(d); p.now.Before(end); {
			before := p.f.drain
			p.repair = 150 * time.Millisecond
			if before > 0 {
				p.repair = 0
			}
			if p.run(20 * time.Millisecond); before == 0 && p.f.drain > 0 {
				n++
			}
		}
		return n
	}
	looks(30 * time.Second)
	if n := looks(5 * time.Minute); n < 4 || n > 9 {
		t.Errorf("%d looks for the least trip in five minutes, want one in %v in the end", n, mostAge)
	}
	p.trip *= 2
	if n := looks(2 * mostAge); n < 3 || n > 6 || p.f.least < p.trip {
		t.Errorf("the path became longer: %d looks in %v, least trip %v, want %v and few", n, 2*mostAge, p.f.least, p.trip)
	}
}

// TestHaste: while a flow of any session of the exit is new, what every session there
// sends queues for half as long.
func TestHaste(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := NewExit(func(wire.NodeID) Opener { return hang() }, ExitConfig{})
		defer x.Close()
		x.mu.Lock()
		bulk := x.admit(wire.NodeID{1}, [32]byte{1}, wire.SessionID{1})
		other := x.admit(wire.NodeID{2}, [32]byte{2}, wire.SessionID{2})
		x.mu.Unlock()
		check := func(when string, want time.Duration) {
			t.Helper()
			if got := bulk.s.m.trunk.queue(time.Now()); got != want {
				t.Errorf("%s: what the exit sends may queue for %v, want %v", when, got, want)
			}
		}
		check("at first", queueTimeDown)
		if err := other.s.accept(t.Context(), wire.SessionFrame{Stream: 1, Kind: wire.KindTCP, Destination: wire.NewDestination(somewhere)}); err != nil {
			t.Fatal(err)
		}
		check("another session has a new flow", queueTimeHaste)
		bulk.s.m.trunk.receiving.Lock()
		if err := bulk.s.m.trunk.acknowledge(0); err != nil || bulk.s.m.trunk.flight.queue != queueTimeHaste {
			t.Errorf("the bound is told of a queue of %v, %v; want %v", bulk.s.m.trunk.flight.queue, err, queueTimeHaste)
		}
		bulk.s.m.trunk.receiving.Unlock()
		time.Sleep(hasteTime)
		check("it is not new any more", queueTimeDown)
	})
}

// TestNamesAreHaste: a question for a name counts as a flow that begins; a client's own
// bulk has a queue of its own.
func TestNamesAreHaste(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := travel(t, answering(), Config{}, nil)
		for range 2 { // the stream of the questions is open before the second
			time.Sleep(2 * hasteTime)
			if r.exit.haste.on(time.Now()) {
				t.Error("somebody waits, though nothing was asked lately")
			}
			if _, err := r.client.Exchange(t.Context(), make([]byte, 12)); err != nil {
				t.Fatal(err)
			}
			if !r.exit.haste.on(time.Now()) {
				t.Error("nobody waits after a question")
			}
		}
		if got := r.client.m.trunk.queue(time.Now()); got != queueTimeUp {
			t.Errorf("what a client sends may queue for %v, want %v", got, queueTimeUp)
		}
	})
}
