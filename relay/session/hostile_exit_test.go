package session

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cuttle/relay/wire"
)

type payload struct {
	kind  byte
	class wire.Class
	p     []byte
}

// puppet is one end of a carrier whose other end the test plays. It keeps what it is
// given to send. What the test says goes to its Handler, and an error ends it, as it
// ends a circuit.
type puppet struct {
	handler Handler
	hold    int // the datagram packet, from 1, that is let through by release; 0: none
	release chan struct{}
	done    chan struct{}
	once    sync.Once

	mu    sync.Mutex // guards the fields below
	sent  []payload
	loose int // datagram packets so far
}

func newPuppet() *puppet { return &puppet{done: make(chan struct{}), release: make(chan struct{})} }

func (c *puppet) Attach(h Handler)      { c.handler = h }
func (c *puppet) Close()                { c.once.Do(func() { close(c.done) }) }
func (c *puppet) Done() <-chan struct{} { return c.done }

func (c *puppet) Send(kind byte, class wire.Class, p []byte) error {
	if c.closed() {
		return errGone
	}
	c.mu.Lock()
	c.sent = append(c.sent, payload{kind, class, bytes.Clone(p)})
	if class == wire.Datagram {
		c.loose++
	}
	held := class == wire.Datagram && c.loose == c.hold
	c.mu.Unlock()
	if held {
		<-c.release
	}
	return nil
}

func (c *puppet) SendAll(kind byte, class wire.Class, packets [][]byte) error {
	return each(c, kind, class, packets)
}

func (c *puppet) closed() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// say gives one payload of the other end to this one.
func (c *puppet) say(m payload) error {
	err := c.handler(m.kind, m.class, m.p)
	if err != nil {
		c.Close()
	}
	return err
}

// since gives what was sent after the first n payloads.
func (c *puppet) since(n int) []payload {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.sent[n:])
}

// packets gives the session packets of one class that were sent.
func (c *puppet) packets(class wire.Class) (out [][]byte) {
	for _, m := range c.since(0) {
		if m.kind == wire.PayloadSession && m.class == class {
			out = append(out, m.p)
		}
	}
	return out
}

func saying(m wire.SessionControl) payload {
	return payload{wire.PayloadAttach, wire.Reliable, message(m)}
}

func saysNumber(typ wire.SessionControlType, n wire.Number) payload {
	return saying(wire.SessionControl{Type: typ, Number: n})
}

func attachedAt(n wire.Number) payload { return saysNumber(wire.SessionAttached, n) }
func ackOf(n wire.Number) payload      { return saysNumber(wire.SessionAck, n) }
func pongTo(n wire.Number) payload     { return saysNumber(wire.SessionPong, n) }

func refusing(why wire.Refusal) payload {
	return saying(wire.SessionControl{Type: wire.SessionRefused, Refusal: why})
}

func reliably(p []byte) payload { return payload{wire.PayloadSession, wire.Reliable, p} }

// stage is a client whose exit the test plays, on one puppet after the other. It may be
// used when all goroutines of the bubble wait.
type stage struct {
	client *Client
	st     *Stream // number 1 of newStage
	flow   *Flow   // its number 2
	hold   int     // of the first puppet

	mu    sync.Mutex // guards lines
	lines []*puppet
}

// newStage has the client send five packets: two times OPEN, three times DATA.
func newStage(t testing.TB, hold int) *stage {
	t.Helper()
	s := &stage{hold: hold}
	s.client = NewClient(s.line(), s.redial, Config{Attaches: 1000})
	var err error
	if s.st, err = s.client.OpenTCP(somewhere); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
	if s.flow, err = s.client.DialUDP(t.Context(), somewhere); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"one", "two", "three"} {
		writeAll(t, s.st, text)
	}
	synctest.Wait()
	if n := s.client.m.trunk.next.Load(); n != stageSent {
		t.Fatalf("%d packets were sent, want %d", n, stageSent)
	}
	return s
}

const stageSent = 5

func (s *stage) line() *puppet {
	c := newPuppet()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.lines) == 0 {
		c.hold = s.hold
	}
	s.lines = append(s.lines, c)
	return c
}

func (s *stage) redial(context.Context, bool) (Line, error) { return s.line(), nil }

// made gives all puppets so far.
func (s *stage) made() []*puppet {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.lines)
}

func (s *stage) newest() *puppet {
	all := s.made()
	return all[len(all)-1]
}

func (s *stage) must(t testing.TB, m payload) {
	t.Helper()
	if err := s.newest().say(m); err != nil {
		t.Fatalf("payload %d %x: %v", m.kind, m.p, err)
	}
	synctest.Wait()
}

// another ends the carrier and waits until the client has sent ATTACH on the next one.
func (s *stage) another() {
	s.newest().Close()
	time.Sleep(attachDelay)
	synctest.Wait()
}

func (s *stage) end() {
	s.client.Close()
	_ = s.st.Close() // an error tells that it had ended
	_ = s.flow.Close()
}

// counts is what control messages change.
func (s *stage) counts() (acked wire.Number, asked, answered uint64) {
	t := &s.client.m.trunk
	t.receiving.Lock()
	defer t.receiving.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.acked, t.asked, t.answered
}

// The places in a session's life where TestClientRefusesControl speaks up. In each the
// client has sent five packets; where a PING waits it is the newest.
var stances = [...]struct {
	name  string
	reach func(t *testing.T, s *stage) *puppet
}{
	{"begun", func(_ *testing.T, s *stage) *puppet { // ATTACHED has not come
		time.Sleep(pingAfter + watchEvery)
		return s.newest()
	}},
	{"attached", reachAttached}, // 2 packets are acknowledged, a PING waits
	{"asking", func(t *testing.T, s *stage) *puppet { // the same, and moving: ATTACHED has not come
		reachAttached(t, s)
		s.another()
		return s.newest()
	}},
	{"resumed", func(t *testing.T, s *stage) *puppet { // 3 are acknowledged, another PING waits
		reachResumed(t, s)
		return s.newest()
	}},
	{"left", func(t *testing.T, s *stage) *puppet { // the carrier before that one
		reachResumed(t, s)
		return s.made()[0]
	}},
}

func reachAttached(t *testing.T, s *stage) *puppet {
	s.must(t, attachedAt(0))
	s.must(t, ackOf(2))
	time.Sleep(pingAfter + watchEvery)
	return s.newest()
}

func reachResumed(t *testing.T, s *stage) {
	reachAttached(t, s)
	s.another()
	s.must(t, attachedAt(3))
	time.Sleep(pingAfter + watchEvery)
}

type exitMessage struct {
	name string
	// Whether the last of says is taken in each of stances: y, n, or - where it is not
	// tried. Those before it are taken.
	takes string
	says  []payload
	reads string // what the program gets of it if it is taken
}

// exitMessages lists what an exit may say, in place or not. asked is the newest token.
func exitMessages(asked uint64) []exitMessage {
	greeting := wire.AppendData(wire.AppendOpened(nil, 1), 1, []byte("greeting"))
	loose := wire.AppendDatagram(nil, 2, wire.Fragment{}, wire.Destination{}, []byte("loose"))
	attach := func(resume bool) payload {
		return payload{wire.PayloadAttach, wire.Reliable, attachBytes(1, resume, 0)}
	}
	one := func(name, takes string, m payload) exitMessage { return exitMessage{name, takes, []payload{m}, ""} }
	control := func(name string, p ...byte) exitMessage {
		return one(name, "nnnnn", payload{wire.PayloadAttach, wire.Reliable, p})
	}
	list := []exitMessage{
		one("attached with 0", "ynnnn", attachedAt(0)), // twice in attached and resumed, below what was acknowledged in asking
		one("attached below what was acknowledged", "nnnnn", attachedAt(1)),
		one("attached with what was acknowledged", "nnynn", attachedAt(2)),
		one("attached with what was sent", "nnynn", attachedAt(stageSent)),
		one("attached beyond what was sent", "nnnnn", attachedAt(stageSent+1)),
		one("attached with the largest number", "nnnnn", attachedAt(math.MaxUint64)),
		{"attached twice on a new session", "n----", []payload{attachedAt(0), attachedAt(0)}, ""},
		{"attached twice on an old session", "--n--", []payload{attachedAt(2), attachedAt(2)}, ""},
		{"refused after attached on a new session", "n----", []payload{attachedAt(0), refusing(wire.RefusalUnknown)}, ""},
		{"refused after attached on an old session", "--n--", []payload{attachedAt(2), refusing(wire.RefusalBusy)}, ""},
		{"attached after refused on a new session", "n----", []payload{refusing(wire.RefusalBusy), attachedAt(0)}, ""},
		{"attached after refused on an old session", "--n--", []payload{refusing(wire.RefusalUnknown), attachedAt(2)}, ""},
		{"refused twice", "n-n--", []payload{refusing(wire.RefusalBusy), refusing(wire.RefusalBusy)}, ""},
		one("refused: unknown", "ynynn", refusing(wire.RefusalUnknown)),
		one("refused: busy", "ynynn", refusing(wire.RefusalBusy)),
		one("ack of nothing", "nnnnn", ackOf(0)),
		one("ack of less than before", "nnnnn", ackOf(1)),
		one("ack of the same as before", "nnnnn", ackOf(2)),
		one("ack of one more", "nynnn", ackOf(3)), // nothing new in resumed
		one("ack of everything", "nynyn", ackOf(stageSent)),
		one("ack beyond what was sent", "nnnnn", ackOf(stageSent+1)),
		one("ack of the largest number", "nnnnn", ackOf(math.MaxUint64)),
		{"ack twice", "-n-n-", []payload{ackOf(stageSent), ackOf(stageSent)}, ""},
		{"ack that goes back", "-n---", []payload{ackOf(4), ackOf(3)}, ""},
		one("pong", "nynyn", pongTo(asked)),
		one("pong that nobody asked for", "nnnnn", pongTo(asked+1)),
		one("pong with 0", "nnnnn", pongTo(0)),
		{"pong twice", "-n-n-", []payload{pongTo(asked), pongTo(asked)}, ""},
		one("attach", "nnnnn", attach(false)),
		one("attach with resume", "nnnnn", attach(true)),
		one("ping", "nnnnn", saysNumber(wire.SessionPing, asked+1)),
		one("end", "nnnnn", saying(wire.SessionControl{Type: wire.SessionEnd})),
		control("control 0", 0), control("control 8", 8, 0, 0, 0, 0, 0, 0, 0, 1), control("control 255", 255),
		control("no control"), control("refused for no reason", 3, 0), control("refused for a third reason", 3, 3),
		one("attached as a datagram", "nnnnn", payload{wire.PayloadAttach, wire.Datagram, attachedAt(2).p}),
		one("ack as a datagram", "nnnnn", payload{wire.PayloadAttach, wire.Datagram, ackOf(4).p}),
		one("payload 0", "nnnnn", payload{0, wire.Reliable, greeting}),
		one("a circuit's message", "nnnnn", payload{wire.PayloadControl, wire.Reliable, greeting}),
		one("payload 4", "nnnnn", payload{4, wire.Reliable, greeting}),
		one("payload 255", "nnnnn", payload{255, wire.Datagram, loose}),
		{"a packet", "-ynyn", []payload{reliably(greeting)}, "greeting"},
		{"a datagram", "-ynyn", []payload{{wire.PayloadSession, wire.Datagram, loose}}, "loose"},
		one("an empty packet", "nnnnn", reliably(nil)),
		one("an empty datagram packet", "nnnnn", payload{wire.PayloadSession, wire.Datagram, nil}),
		one("a packet as a datagram", "nnnnn", payload{wire.PayloadSession, wire.Datagram, greeting}),
		one("a datagram as a packet", "nnnnn", reliably(loose)),
		{"a packet after refused", "--n--", []payload{refusing(wire.RefusalBusy), reliably(greeting)}, ""},
	}
	// Each message of an exit, a byte short and a byte long.
	for _, m := range []payload{attachedAt(0), attachedAt(2), refusing(wire.RefusalUnknown), ackOf(4), pongTo(asked)} {
		what := wire.SessionControlType(m.p[0])
		list = append(list, control(fmt.Sprintf("%v %d, short", what, m.p[len(m.p)-1]), m.p[:len(m.p)-1]...),
			control(fmt.Sprintf("%v %d, long", what, m.p[len(m.p)-1]), append(bytes.Clone(m.p), 0)...))
	}
	return list
}

// TestClientRefusesControl: what an exit says out of place ends the carrier, changes
// nothing and reaches no program; what it may say there is taken.
func TestClientRefusesControl(t *testing.T) {
	for at, stance := range stances {
		for i, row := range exitMessages(0) {
			if row.takes[at] == '-' {
				continue
			}
			t.Run(stance.name+"/"+row.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := newStage(t, 0)
					defer s.end()
					line := stance.reach(t, s)
					synctest.Wait()
					_, asked, answered := s.counts()
					if asked == answered {
						t.Fatal("no ping waits")
					}
					says := exitMessages(asked)[i].says
					last := len(says) - 1
					for _, m := range says[:last] {
						if err := line.say(m); err != nil {
							t.Fatalf("before the last message: %v", err)
						}
					}
					acked, asked, answered := s.counts()
					err := line.say(says[last])
					taken := row.takes[at] == 'y'
					if taken != (err == nil) {
						t.Errorf("got error %v, want the message taken: %v", err, taken)
					}
					if a, b, c := s.counts(); !taken && (a != acked || b != asked || c != answered) {
						t.Errorf("acknowledged, asked and answered have become %d, %d, %d of %d, %d, %d", a, b, c, acked, asked, answered)
					}
					want := ""
					if taken {
						want = row.reads
					}
					if got := s.reads(); got != want {
						t.Errorf("programs have read %q, want %q", got, want)
					}
				})
			})
		}
	}
}

// reads gives all that programs can read now.
func (s *stage) reads() string {
	_ = s.st.SetReadDeadline(time.Now().Add(time.Millisecond))
	got, _ := io.ReadAll(struct{ io.Reader }{s.st}) // ends with an error
	_ = s.flow.SetReadDeadline(time.Now().Add(time.Millisecond))
	b := make([]byte, maxDatagram)
	for {
		n, err := s.flow.Read(b)
		if err != nil {
			return string(got)
		}
		got = append(got, b[:n]...)
	}
}

// TestAnswerChangesSession: an answer to ATTACH that is taken has its effect: packets
// from there on are sent, or the session is over.
func TestAnswerChangesSession(t *testing.T) {
	for _, tt := range []struct {
		name   string
		moving bool
		answer payload
		code   wire.Code // of the session's end; 0: it goes on
		resent int       // packets
	}{
		{"new, attached", false, attachedAt(0), 0, stageSent},
		{"new, unknown", false, refusing(wire.RefusalUnknown), wire.CodeEnded, stageSent},
		{"new, busy", false, refusing(wire.RefusalBusy), wire.CodeResources, stageSent},
		{"moving, attached", true, attachedAt(2), 0, stageSent - 2},
		{"moving, attached and all had", true, attachedAt(stageSent), 0, 0},
		{"moving, unknown", true, refusing(wire.RefusalUnknown), wire.CodeEnded, 0},
		{"moving, busy", true, refusing(wire.RefusalBusy), wire.CodeResources, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage(t, 0)
				defer s.end()
				before := s.made()[0].packets(wire.Reliable)
				if tt.moving {
					s.another()
				}
				line := s.newest()
				if got := line.packets(wire.Reliable); tt.moving && len(got) != 0 {
					t.Errorf("%d packets were sent before the answer, want none", len(got))
				}
				if err := line.say(tt.answer); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				got := line.packets(wire.Reliable)
				if want := before[stageSent-tt.resent:]; !slices.EqualFunc(got, want, bytes.Equal) {
					t.Errorf("sent %q on that carrier, want %q", got, want)
				}
				if tt.code == 0 {
					if s.client.ended() || line.closed() {
						t.Error("the session or its carrier has ended")
					}
					return
				}
				if !s.client.ended() || !line.closed() {
					t.Error("the session or its carrier goes on")
				}
				wantCode(t, "the stream", s.st.Err(), tt.code)
				wantCode(t, "the flow", s.flow.Err(), tt.code)
			})
		})
	}
}
