package session

import (
	"encoding/binary"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cuttle/relay/wire"
)

// wireLog is a carrier that keeps what it is given, control and all.
type wireLog struct {
	sent chan []byte // kind || packet
	done chan struct{}
}

func newWireLog() *wireLog { return &wireLog{make(chan []byte, 1024), make(chan struct{})} }

func (c *wireLog) Send(kind byte, _ wire.Class, p []byte) error {
	select {
	case <-c.done:
		return errGone
	default:
	}
	select {
	case c.sent <- append([]byte{kind}, p...):
		return nil
	case <-c.done:
		return errGone
	}
}

func (c *wireLog) SendAll(kind byte, class wire.Class, packets [][]byte) error {
	return each(c, kind, class, packets)
}

func (c *wireLog) Close() {
	if !c.closed() {
		close(c.done)
	}
}

func (c *wireLog) closed() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

func (c *wireLog) Done() <-chan struct{} { return c.done }

// controls takes apart the control messages that were sent.
func (c *wireLog) controls(t testing.TB) (out []wire.SessionControl) {
	t.Helper()
	for {
		select {
		case p := <-c.sent:
			if p[0] != wire.PayloadAttach {
				continue
			}
			m, err := wire.ParseSessionControl(p[1:])
			if err != nil {
				t.Fatalf("sent what does not parse: %v", err)
			}
			out = append(out, m)
		default:
			return out
		}
	}
}

func message(m wire.SessionControl) []byte { return m.Append(nil) }

func attachBytes(id byte, resume bool, next uint64) []byte {
	return message(wire.SessionControl{Type: wire.SessionAttach, Resume: resume, ID: wire.SessionID{id}, Number: next})
}

// TestExitRefusesViolations: each sequence of payloads closes the circuit at its
// last one, and not before.
func TestExitRefusesViolations(t *testing.T) {
	type payload struct {
		kind byte
		p    []byte
	}
	control := func(typ wire.SessionControlType, n uint64) payload {
		return payload{wire.PayloadAttach, message(wire.SessionControl{Type: typ, Number: n, Refusal: wire.RefusalUnknown})}
	}
	begin := payload{wire.PayloadAttach, attachBytes(1, false, 0)}
	opening := payload{wire.PayloadSession, open(1, wire.KindTCP)}
	for name, payloads := range map[string][]payload{
		"packet before attach":       {opening},
		"ping before attach":         {control(wire.SessionPing, 1)},
		"attach twice":               {begin, begin},
		"attached from the client":   {begin, control(wire.SessionAttached, 0)},
		"refused from the client":    {begin, control(wire.SessionRefused, 0)},
		"pong from the client":       {begin, control(wire.SessionPing, 1), control(wire.SessionPong, 1)},
		"ping that does not grow":    {begin, control(wire.SessionPing, 5), control(wire.SessionPing, 5)},
		"ack of what was not sent":   {begin, control(wire.SessionAck, 1)},
		"ack without news":           {begin, opening, control(wire.SessionAck, 0)},
		"half a message":             {begin, {wire.PayloadAttach, []byte{4, 0}}},
		"unknown payload":            {begin, {9, []byte{1}}},
		"something after a refusal":  {{wire.PayloadAttach, attachBytes(2, true, 0)}, control(wire.SessionPing, 1)},
		"attach after a refusal":     {{wire.PayloadAttach, attachBytes(2, true, 0)}, begin},
		"a frame that does not hold": {begin, {wire.PayloadSession, []byte{99, 0, 0, 0, 1}}},
	} {
		t.Run(name, func(t *testing.T) {
			x := NewExit(func(wire.NodeID) Opener { return hang() }, ExitConfig{})
			defer x.Close()
			c := newWireLog()
			defer c.Close()
			h := x.Accept(c, wire.NodeID{1})
			for i, p := range payloads {
				err := h(p.kind, wire.Reliable, p.p)
				if last := i == len(payloads)-1; last != (err != nil) {
					t.Errorf("payload %d of %d: error %v", i+1, len(payloads), err)
				}
			}
		})
	}
}

// TestAttachNeedsTheID: who does not know the id gets a refusal, whatever exists;
// who knows it takes the session over, and what the carrier before still says is
// not looked at.
func TestAttachNeedsTheID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := NewExit(func(wire.NodeID) Opener { return hang() }, ExitConfig{})
		defer x.Close()
		first, second, stranger := newWireLog(), newWireLog(), newWireLog()
		h1 := x.Accept(first, wire.NodeID{1})
		if err := errors.Join(h1(wire.PayloadAttach, wire.Reliable, attachBytes(7, false, 0)),
			h1(wire.PayloadSession, wire.Reliable, open(1, wire.KindTCP))); err != nil {
			t.Fatal(err)
		}
		if err := x.Accept(stranger, wire.NodeID{2})(wire.PayloadAttach, wire.Reliable, attachBytes(8, true, 0)); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if got := stranger.controls(t); len(got) != 1 || got[0].Type != wire.SessionRefused || got[0].Refusal != wire.RefusalUnknown {
			t.Errorf("a stranger is told %v, want refused", got)
		}
		again := newWireLog()
		if err := x.Accept(again, wire.NodeID{1})(wire.PayloadAttach, wire.Reliable, attachBytes(7, false, 0)); !errors.Is(err, errProtocol) {
			t.Errorf("the id begun again: %v, want a violation", err)
		}
		if first.closed() {
			t.Error("strangers have closed the session's carrier")
		}
		h2 := x.Accept(second, wire.NodeID{2})
		if err := h2(wire.PayloadAttach, wire.Reliable, attachBytes(7, true, 0)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := second.controls(t); len(got) != 1 || got[0].Type != wire.SessionAttached || got[0].Number != 1 {
			t.Errorf("the second carrier is told %v, want attached with 1", got)
		}
		if !first.closed() {
			t.Error("the first carrier is still open")
		}
		for range 2 { // the same again, late
			if err := h1(wire.PayloadSession, wire.Reliable, open(1, wire.KindTCP)); !errors.Is(err, errStale) {
				t.Errorf("a packet on the old carrier: %v, want it refused", err)
			}
		}
		if err := h2(wire.PayloadSession, wire.Reliable, open(2, wire.KindTCP)); err != nil {
			t.Errorf("a packet on the new one: %v", err)
		}
		if n, _ := x.Sessions(); n != 1 {
			t.Errorf("%d sessions, want 1", n)
		}
		// A number that was never sent ends the session, whoever says it.
		if err := x.Accept(newWireLog(), wire.NodeID{2})(wire.PayloadAttach, wire.Reliable, attachBytes(7, true, 99)); !errors.Is(err, errProtocol) {
			t.Errorf("attach that expects packet 99: %v, want a violation", err)
		}
		synctest.Wait()
		if n, _ := x.Sessions(); n != 0 || !second.closed() {
			t.Errorf("%d sessions afterwards, want 0 and the carrier closed", n)
		}
		stranger.Close()
	})
}

// TestExitIsBounded: sessions per neighbor and in all, detached ones, and what
// they keep.
func TestExitIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := NewExit(func(wire.NodeID) Opener { return hang() }, ExitConfig{Sessions: 16, PerNeighbor: 8, Detached: 6, DetachedPer: 4})
		defer x.Close()
		begin := func(id, from byte) (*wireLog, bool) {
			c := newWireLog()
			h := x.Accept(c, wire.NodeID{from})
			if err := h(wire.PayloadAttach, wire.Reliable, attachBytes(id, false, 0)); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			got := c.controls(t)
			if got[0].Type == wire.SessionAttached {
				if err := h(wire.PayloadSession, wire.Reliable, open(1, wire.KindTCP)); err != nil {
					t.Fatal(err)
				}
			} else if got[0].Refusal != wire.RefusalBusy {
				t.Errorf("refused with %v, want busy", got[0].Refusal)
			}
			return c, got[0].Type == wire.SessionAttached
		}
		var all []*wireLog
		for i := range byte(10) {
			c, ok := begin(i, 1)
			if ok != (i < 8) {
				t.Errorf("session %d of one neighbor: taken %v", i+1, ok)
			}
			all = append(all, c)
		}
		for i := range 8 {
			all[i].Close()
			synctest.Wait()
		}
		if n, d := x.Sessions(); n != 4 || d != 4 {
			t.Errorf("one neighbor: %d sessions, %d detached; want 4 and 4", n, d)
		}
		for i := range byte(8) {
			c, _ := begin(20+i, 2)
			all = append(all, c)
			c.Close()
			synctest.Wait()
		}
		if n, d := x.Sessions(); n != 6 || d != 6 {
			t.Errorf("two neighbors: %d sessions, %d detached; want 6 and 6", n, d)
		}
		time.Sleep(time.Minute + time.Second)
		if n, d := x.Sessions(); n != 0 || d != 0 {
			t.Errorf("a minute later: %d sessions, %d detached; want none", n, d)
		}
		for _, c := range all {
			c.Close()
		}
	})
}

// TestKeptIsBounded: when sessions keep more than the exit has for them, the one
// that keeps most ends.
func TestKeptIsBounded(t *testing.T) {
	x := NewExit(func(wire.NodeID) Opener { return hang() }, ExitConfig{Kept: 8 * slabSize})
	defer x.Close()
	a, b := &resident{near: &neighbor{}}, &resident{near: &neighbor{}}
	if first, second := x.allow(a, slabSize, false), x.allow(a, slabSize, false); !first || !second {
		t.Error("within a quarter of the budget: refused")
	}
	if x.allow(a, slabSize, false) {
		t.Error("a neighbor got more than a quarter of the budget")
	}
	if !x.allow(b, 2*slabSize, false) || x.allow(b, slabSize, false) {
		t.Error("the other neighbor did not get half of the budget together, or more")
	}
	if !x.allow(b, slabSize, true) {
		t.Error("the least window was refused")
	}
	x.allow(a, -a.kept, true)
	x.allow(b, -b.kept, true)
	if x.Kept() != 0 {
		t.Errorf("%d bytes are counted of nothing", x.Kept())
	}
}

// TestReliefEndsOneSession: however much is asked for meanwhile, no other session is ended
// before what the first one kept has been given back.
func TestReliefEndsOneSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := NewExit(func(wire.NodeID) Opener { return hang() }, ExitConfig{Kept: 8 * slabSize})
		block := make(chan struct{})
		var all []*resident
		x.mu.Lock()
		for i := range byte(4) {
			r := x.admit(wire.NodeID{i}, [32]byte{i}, wire.SessionID{i})
			r.s.m.work.Go(func() { <-block }) // something of it takes long to end
			all = append(all, r)
		}
		x.mu.Unlock()
		ask := func() int {
			for range 20 {
				for _, r := range all {
					x.allow(r, slabSize, true)
					x.allow(r, -slabSize, true)
				}
				synctest.Wait()
			}
			n, _ := x.Sessions()
			return n
		}
		for _, r := range all[:3] {
			x.allow(r, 3*slabSize, true)
		}
		if n := ask(); n != 3 {
			t.Errorf("%d of 4 sessions are left while the first one ends, want 3", n)
		}
		for _, r := range all {
			if x.sessions[r.index] == nil {
				x.allow(r, -r.kept, true) // as its trunk does in the end
			}
		}
		close(block)
		synctest.Wait()
		if n := ask(); n != 3 || x.relief {
			t.Errorf("%d of 4 sessions are left when there is room again, want 3", n)
		}
		x.Close()
	})
}

// TestClientKeepsWithinItsShare: sessions whose exits acknowledge nothing keep together
// what they may, each has its least window all the same, and goes on when there is room.
func TestClientKeepsWithinItsShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kept := NewKept(3 * wire.LeastWindow)
		var all []*mux
		var senders sync.WaitGroup
		begin := func() {
			m := muxOn(newRecorder(1<<12), Config{Kept: kept})
			all = append(all, m)
			senders.Go(func() { // ends with the session
				for m.trunk.send(make([]byte, wire.SessionPacketSize)) == nil {
				}
			})
			synctest.Wait()
		}
		begin()
		if n := kept.used.Load(); n != 3*wire.LeastWindow {
			t.Errorf("one session keeps %d bytes, want all of the %d there are", n, 3*wire.LeastWindow)
		}
		begin()
		if n := kept.used.Load(); n != 4*wire.LeastWindow {
			t.Errorf("two sessions keep %d bytes, want the first one's share and a least window", n)
		}
		if kept.allow(1, false, true) || !kept.allow(1, true, true) {
			t.Error("beyond the share only what must be is kept")
		}
		kept.allow(-1, true, true)
		if lone := NewKept(4 * slabSize); !lone.allow(2, false, false) || lone.allow(1, false, false) || !lone.allow(2, false, true) {
			t.Error("sessions without a carrier keep other than half of the share")
		}
		first := all[0]
		first.trunk.receiving.Lock()
		if err := first.trunk.acknowledge(first.trunk.next.Load()); err != nil {
			t.Error(err)
		}
		first.trunk.receiving.Unlock()
		synctest.Wait()
		if n := kept.used.Load(); n < 3*wire.LeastWindow || n > 4*wire.LeastWindow {
			t.Errorf("after an acknowledgement %d bytes are kept, want the share used again", n)
		}
		for _, m := range all {
			m.close()
		}
		senders.Wait()
		if n := kept.used.Load(); n != 0 {
			t.Errorf("%d bytes are counted of sessions that have ended", n)
		}
	})
}

// FuzzExitCarriers has two carriers of one exit say random things in random
// order. Nothing may panic, and nothing is left at the end.
func FuzzExitCarriers(f *testing.F) {
	f.Add([]byte{0, 1, 0, 0, 0, 2, 0, 0, 0, 2, 4, 0})
	f.Add([]byte{0, 1, 0, 0, 0, 2, 0, 0, 1, 1, 1, 0, 0, 2, 0, 0, 1, 2, 1, 0, 1, 5, 0, 1})
	f.Add([]byte{0, 1, 0, 0, 0, 5, 0, 1, 0, 4, 0, 1, 0, 7, 0, 0})
	f.Fuzz(func(t *testing.T, script []byte) {
		x := NewExit(func(wire.NodeID) Opener { return answering() }, ExitConfig{Session: Config{Budget: 1 << 20, Streams: 16}})
		carriers := [2]*wireLog{newWireLog(), newWireLog()}
		var handlers [2]Handler
		for i, c := range carriers {
			handlers[i] = x.Accept(c, wire.NodeID{byte(i)})
		}
		for stream := wire.StreamID(1); len(script) >= 4; script = script[4:] {
			who, n := script[0]&1, uint64(binary.BigEndian.Uint16(script[2:]))
			kind, p := wire.PayloadAttach, []byte(nil)
			switch script[1] % 9 {
			case 1:
				p = attachBytes(byte(n>>8)&1, n>>15 == 1 || n&1 == 1, n&0xff)
				if p[1] == 0 {
					p = attachBytes(byte(n>>8)&1, false, 0)
				}
			case 2:
				kind, p = wire.PayloadSession, open(stream, wire.KindTCP)
				stream++
			case 3:
				kind, p = wire.PayloadSession, wire.AppendData(nil, stream-1, make([]byte, n%maxData+1))
			case 8:
				p = script[2:4]
			case 0:
				if carriers[who].closed() {
					continue
				}
				carriers[who].Close()
			default:
				p = message(wire.SessionControl{Type: wire.SessionControlType(script[1]%9) % 8, Number: n, Refusal: wire.RefusalUnknown})
			}
			if carriers[who].closed() || len(p) == 0 {
				continue
			}
			if handlers[who](kind, wire.Reliable, p) != nil {
				carriers[who].Close()
			}
		}
		for _, c := range carriers {
			c.Close()
		}
		x.Close()
		if n, d := x.Sessions(); n != 0 || d != 0 || x.Kept() != 0 {
			t.Errorf("%d sessions, %d detached, %d bytes kept after the end", n, d, x.Kept())
		}
	})
}
