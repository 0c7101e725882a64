package session

import (
	"bytes"
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

// FuzzClientControl plays an exit that lies, on carriers that end: each two bytes of the
// script are one thing that it, the path, the clock or a program does. What is said in
// place is taken, and the rest is not. Programs read what was sent to them in order, and
// their bytes and datagrams leave as they were written: bytes from where the exit says,
// on each carrier, datagrams once. No more is kept than the window has room for, and in
// the end nothing is.
func FuzzClientControl(f *testing.F) {
	for _, script := range []string{
		"\x00\x00\x05\x00\x04\x20\x05\x00\x0c\x00\x01\x05\x02\x00",                 // all in place
		"\x00\x00\x05\x00\x04\x21\x04\x22\x09\x00\x0a\x14\x00\x02\x05\x03\x0c\x00", // a circuit ends, and what was under way comes over the next
		"\x00\x00\x0b\x08\x0b\x0b\x09\x00\x0b\x05\x0a\x14\x00\x01\x0a\x14\x00\x03\x0a\x14\x00\x02\x01\x05",
		"\x00\x00\x0b\xfe\x0b\xff\x0b\xfe\x0b\xff\x0b\xfe\x0b\xff\x0b\xfe\x0b\xff\x0b\xfe\x0b\xff\x01\x04\x09\x00\x0a\x14\x00\x02", // the window is full
		"\x00\x00\x0b\xfe\x09\x00\x0b\xfe\x0b\xff\x0b\xfe\x0b\xff\x0b\xfe\x0b\xff\x0b\xfe\x0b\xff\x0b\xfe\x0b\xff\x0a\x14\x00\x03\x01\x05",
		"\x00\x00\x0d\x05\x0d\xff\x09\x00\x0d\x06\x0a\x14\x0d\x80\x00\x02\x0d\x07\x0f\x00",                 // datagrams from programs
		"\x00\x00\x0e\x10\x0e\x01\x0e\x02\x0f\x00\x0e\x01\x09\x00\x0a\x14\x00\x02\x0e\x02\x0e\x10\x0f\x00", // and to them; half of one is lost with its circuit
		"\x00\x00\x05\x00\x09\x00\x0a\x14\x06\x00\x0a\x14\x05\x00\x00\x02\x07\x01\x07\x08\x06\x01\x05\x07",
		"\x08\x00\x0a\x14\x08\x01\x0a\x14\x08\x02\x0a\x14\x08\x03\x00\x02\x08\x04\x0a\x14\x00\x02\x08\x05\x0a\x14\x00\x05\x08\x06",
		"\x00\x00\x0a\x46\x02\x02\x02\x02\x0a\x14\x00\x02\x0a\x46\x02\x01\x0a\x14\x00\x02\x0a\x46\x02\x03\x0a\x14\x00\x02\x02\x02", // pongs
		"\x00\x00\x0a\x46\x09\x00\x0a\x14\x02\x02\x0a\x14\x00\x02\x02\x02", "\x00\x05\x0a\x14\x00\x00",
		"\x00\x00\x0b\x10\x09\x00\x0a\x14\x01\x05\x0a\x14\x01\x03\x0a\x14\x00\x05\x0b\x10\x01\x02",
		"\x00\x00\x0d\x05\x09\x00\x0a\x14\x00\x02\x0d\x07\x09\x00\x0a\x14\x00\x02",
		"\x00\x00\x08\x06\x0a\x14\x00\x02\x03\x02\x0a\x14\x08\x02\x0a\x14\x00\x02\x06\x00", "\x00\x00\x06\x00", "\x00\x00\x06\x04",
		"\x00\x00\x01\x02", "\x00\x00\x08\x06", "\x08\x05", "\x03\x00", "\x00\x00\x09\x00\x0a\x14\x03\x03",
		"\x00\x00\x01\x03\x01\x03\x0b\x10\x01\x03\x01\x01\x0a\x14\x00\x01\x0a\x14\x00\x02\x01\x06\x0a\x14\x00\x06",
		"\x00\x00\x05\x00\x04\xf0\x05\x00\x0a\xff\x0a\xff\x0a\xff\x00\x02\x03\x01", // it is given up, and refuses after ATTACHED
		"\x03\x01\x00\x00", "\x00\x00\x09\x00\x0a\x14\x03\x02\x0a\x14\x0c\x00",
		"\x00\x00\x05\x00\x11\x00\x0c\x00", "\x00\x00\x05\x00\x04\xf0\x05\x00\x0c\x00\x10\x40\x05\x00\x11\x01", // more than the window of a stream
		"\x00\x00\x05\x00\x04\xf0\x05\x00\x06\x03\x0c\x00", "\x00\x00\x05\x00\x06\x05", "\x06\x02\x00\x00",
	} {
		f.Add([]byte(script))
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		synctest.Test(t, func(t *testing.T) {
			l := newLiar(t)
			l.look()
			for i := 0; i+1 < len(script) && i < 160 && !l.client.ended(); i += 2 {
				l.step(script[i]%18, int(script[i+1]))
				synctest.Wait()
				l.look()
			}
			l.finish()
		})
	})
}

// liar is the exit of FuzzClientControl, and what it knows of the client.
type liar struct {
	*stage
	t       *testing.T
	streams [2]*lied

	queue    []payload // packets to the client, in order, that it has not had
	took     uint64    // packets that it has had
	seen     []*seen   // of each carrier
	numbers  [][]byte  // the client's packets, as far as all have been seen
	early    map[wire.Number][]byte
	acked    wire.Number
	answered uint64
	asked    uint64 // the newest token that was seen

	once   map[string]bool // the client's datagrams, or parts, that were seen
	wrote  uint16          // datagrams of its program
	loose  []string        // datagrams that the program is still to read
	number uint16          // of the last one to it in parts
	half   string          // its first part, if that was taken
	halfOn int             // on this carrier
}

// lied is a stream that liar plays the far end of.
type lied struct {
	*Stream
	index       int
	queued      int // bytes given to queue
	taken, read int // bytes that the client has had, and its program
	got         int // bytes of its program that have come
	granted     int // bytes that may be sent to it
	opened      bool
	orders      chan int // bytes that the program is to write
	writer      sync.WaitGroup
}

// seen is what liar knows of one carrier.
type seen struct {
	payloads int         // so many were looked at
	next     wire.Number // of the packet that comes next
	open     bool        // the client may send packets
	answered bool        // ATTACH was
	told     wire.Number // by its ACKs
}

// verdict says what the client must make of a message.
type verdict int

const (
	refuse verdict = iota
	take
)

func newLiar(t *testing.T) *liar {
	l := &liar{stage: &stage{}, t: t, early: map[wire.Number][]byte{}, once: map[string]bool{}, halfOn: -1}
	l.client = NewClient(l.line(), l.redial, Config{Attaches: 1000, Window: 1, MaxWindow: 1})
	for i := range l.streams {
		st, err := l.client.OpenTCP(somewhere)
		if err != nil {
			t.Fatal(err)
		}
		s := &lied{Stream: st, index: i, granted: wire.StreamWindow, orders: make(chan int, 200)}
		s.writer.Go(func() { // ends with orders
			at := 0
			for n := range s.orders {
				k, _ := s.Write(s.up(at, n)) // an error tells that the session has ended
				at += k
			}
		})
		l.streams[i] = s
	}
	var err error
	if l.flow, err = l.client.DialUDP(t.Context(), somewhere); err != nil {
		t.Fatal(err)
	}
	l.queue = append(l.queue, reliably(wire.AppendOpened(wire.AppendOpened(wire.AppendOpened(nil, 1), 2), 3)))
	synctest.Wait()
	return l
}

// up and down are what stands at an offset of the stream in either direction.
func (s *lied) up(at, n int) []byte   { return pattern(s.index*333+at, n) }
func (s *lied) down(at, n int) []byte { return pattern(s.index*333+777+at, n) }

// step does one thing.
func (l *liar) step(op byte, arg int) {
	l.t.Helper()
	s := l.streams[arg&1]
	switch op {
	case 0:
		l.attached(l.someNumber(arg))
	case 1:
		n := l.someNumber(arg)
		if l.say(ackOf(n), l.inPlace(n > l.acked && n <= l.sent())) {
			l.acked = n
		}
	case 2:
		n := l.asked + uint64(arg%4) - 2 // the newest one with 2
		if l.say(pongTo(n), l.inPlace(n > l.answered && n <= l.asked)) {
			l.answered = n
		}
	case 3:
		l.refused(arg % 4)
	case 4:
		if n := min(arg*5+1, maxData, s.granted-s.queued); n > 0 {
			l.queue = append(l.queue, reliably(wire.AppendData(nil, s.id, s.down(s.queued, n))))
			s.queued += n
		}
	case 5:
		for range arg%8 + 1 {
			if len(l.queue) > 0 && l.say(l.queue[0], l.inPlace(true)) {
				l.arrived(l.queue[0].p)
				l.queue = l.queue[1:]
			}
		}
	case 6:
		l.junk(arg)
	case 7:
		l.stale(arg)
	case 8:
		l.outOfPlace(arg)
	case 9:
		l.newest().Close()
	case 10:
		time.Sleep(time.Duration(arg) * 20 * time.Millisecond)
	case 11:
		s.orders <- arg * 200
	case 12:
		for _, s := range l.streams {
			l.read(s)
		}
	case 13:
		l.wrote++
		b := pattern(int(l.wrote), arg*20+2)
		b[0], b[1] = byte(l.wrote>>8), byte(l.wrote)
		if _, err := l.flow.Write(b); err != nil {
			l.t.Errorf("write of a datagram: %v", err)
		}
	case 14:
		l.datagram(arg)
	case 15:
		l.receive()
	case 16:
		l.queue = append(l.queue, reliably(wire.AppendWindow(nil, s.id, uint32(arg)<<10+1)))
	case 17:
		l.flood(s)
	}
}

func (l *liar) sent() wire.Number { return l.client.m.trunk.next.Load() }

// someNumber is one that an exit may say it expects next, or might like to.
func (l *liar) someNumber(arg int) wire.Number {
	acked, sent := l.acked, l.sent()
	return [...]wire.Number{0, acked - 1, acked, acked + 1, (acked + sent) / 2, sent, sent + 1, math.MaxUint64}[arg%8]
}

// on tells whether the newest carrier is the session's.
func (l *liar) on() bool { return !l.newest().closed() && !l.client.ended() }

// inPlace judges a message that comes after ATTACHED, if it is right as such.
func (l *liar) inPlace(right bool) verdict {
	if here := l.seen[len(l.seen)-1]; !right || !l.on() || !here.open || !here.answered {
		return refuse
	}
	return take
}

// say gives the client one message on its newest carrier and tells whether it took it.
func (l *liar) say(m payload, want verdict) bool {
	l.t.Helper()
	err := l.newest().say(m)
	if want == take && err != nil || want == refuse && err == nil {
		l.t.Fatalf("payload %d of class %v, %.40x, on carrier %d: error %v", m.kind, m.class, m.p, len(l.made())-1, err)
	}
	return err == nil
}

// attached answers ATTACH with that number.
func (l *liar) attached(n wire.Number) {
	here, want := l.seen[len(l.seen)-1], refuse
	fresh := len(l.seen) == 1
	if l.on() && !here.answered && (fresh && n == 0 || !fresh && n >= l.acked && n <= l.sent()) {
		want = take
	}
	if l.say(attachedAt(n), want) {
		here.answered, here.open = true, true
		if !fresh {
			here.next, l.acked = n, n
		}
	}
}

func (l *liar) refused(reason int) {
	here, want := l.seen[len(l.seen)-1], refuse
	ends := l.on() && !here.answered && (reason == 1 || reason == 2)
	if ends {
		want = take
	}
	l.say(payload{wire.PayloadAttach, wire.Reliable, []byte{byte(wire.SessionRefused), byte(reason)}}, want)
	if synctest.Wait(); ends != l.client.ended() {
		l.t.Errorf("after a refusal the session has ended: %v, want %v", l.client.ended(), ends)
	}
}

// arrived notes what was in a packet that the client took.
func (l *liar) arrived(p []byte) {
	l.took++
	f, _, err := wire.NextSessionFrame(p)
	if err != nil {
		l.t.Fatal(err)
	}
	switch f.Type { //nolint:exhaustive // what else comes says nothing here
	case wire.SessionOpened:
		for _, s := range l.streams {
			s.opened = true
		}
	case wire.SessionData:
		l.streams[f.Stream-1].taken += len(f.Data)
	}
}

// junk says packets that no program may have anything of.
func (l *liar) junk(arg int) {
	s := l.streams[arg>>4&1]
	wrong := make([]byte, 100)
	for i, b := range s.down(s.taken, len(wrong)) {
		wrong[i] = ^b
	}
	here := l.seen[len(l.seen)-1]
	data := wire.AppendData(nil, s.id, wrong)
	if l.on() && !(here.open && here.answered) { // what would be in order later on
		l.say(reliably(data), refuse)
		if synctest.Wait(); l.client.ended() {
			l.t.Error("a packet out of place has ended the session")
		}
		return
	}
	all := []payload{
		{wire.PayloadSession, wire.Datagram, data},
		reliably(append([]byte{99, 0, 0, 0, 1}, data...)),
		reliably(wire.AppendData(nil, 9, wrong)),
		reliably(nil),
		reliably(wire.AppendDatagram(nil, 3, wire.Fragment{}, wire.Destination{}, wrong)),
		reliably(open(9, wire.KindTCP)),
		reliably(data[:len(data)-1]),
	}
	was := l.on()
	l.say(all[arg%len(all)], refuse)
	if synctest.Wait(); was && !l.client.ended() {
		l.t.Error("a packet that breaks the rules has not ended the session")
	}
}

// stale says what is or was in place, on a carrier that the session has left.
func (l *liar) stale(arg int) {
	old := arg / 8 % len(l.made())
	if old == len(l.made())-1 && l.on() {
		return
	}
	data := wire.AppendData(nil, 1, []byte("stale"))
	loose := wire.AppendDatagram(nil, 3, wire.Fragment{}, wire.Destination{}, []byte("stale"))
	all := []payload{reliably(data), {wire.PayloadSession, wire.Datagram, loose}, attachedAt(l.acked), ackOf(l.sent()), pongTo(l.asked), refusing(wire.RefusalUnknown)}
	m := all[arg%len(all)]
	if err := l.made()[old].say(m); err == nil {
		l.t.Fatalf("payload %d of class %v, %.40x, is taken on carrier %d of %d", m.kind, m.class, m.p, old, len(l.made()))
	}
}

// outOfPlace says what an exit never says.
func (l *liar) outOfPlace(arg int) {
	all := []payload{
		{wire.PayloadAttach, wire.Reliable, attachBytes(1, arg&16 != 0, 0)},
		saysNumber(wire.SessionPing, l.asked+1),
		saying(wire.SessionControl{Type: wire.SessionEnd}),
		{wire.PayloadAttach, wire.Reliable, []byte{byte(8 + arg>>3), 0, 0, 0, 0, 0, 0, 0, 1}},
		{wire.PayloadAttach, wire.Reliable, attachedAt(l.acked).p[:arg>>3%9]},
		{wire.PayloadAttach, wire.Reliable, append(attachedAt(l.acked).p, 0)},
		{wire.PayloadAttach, wire.Datagram, ackOf(l.acked + 1).p},
		{byte(4 + arg>>3), wire.Reliable, wire.AppendData(nil, 1, []byte("no payload of a session"))},
	}
	l.say(all[arg%len(all)], refuse)
	if synctest.Wait(); l.client.ended() {
		l.t.Error("a message out of place has ended the session")
	}
}

// datagram says one to the program, whole or in two parts, of which one may be missing.
func (l *liar) datagram(arg int) {
	text := fmt.Sprintf("%d: %s", l.number, pattern(arg, arg))
	var part wire.Fragment
	on := len(l.made()) - 1
	switch arg & 3 {
	case 1, 3:
		l.number++
		part, text = wire.Fragment{Part: true, Number: l.number}, "a half, "
	case 2:
		part = wire.Fragment{Part: true, Number: l.number, Last: true, Place: 1}
	}
	p := wire.AppendDatagram(nil, 3, part, wire.Destination{}, []byte(text))
	taken := l.say(payload{wire.PayloadSession, wire.Datagram, p}, l.inPlace(true))
	switch {
	case !taken:
	case !part.Part:
		l.loose = append(l.loose, text)
	case !part.Last:
		l.half, l.halfOn = text, on
	case l.halfOn == on:
		l.loose = append(l.loose, l.half+text)
		l.halfOn = -1
	}
}

// flood sends the stream more than it may.
func (l *liar) flood(s *lied) {
	if l.inPlace(true) != take || !s.opened || s.queued != s.taken {
		return
	}
	for s.taken-s.read <= wire.StreamWindow {
		if l.newest().say(reliably(wire.AppendData(nil, s.id, s.down(s.taken, maxData)))) != nil {
			break
		}
		l.took++
		s.taken += maxData
		s.queued = s.taken
	}
	if over := s.taken - s.read; over > wire.StreamWindow || s.taken+maxData <= s.granted {
		l.t.Errorf("%d bytes were taken, of %d granted, and %d are not read", s.taken, s.granted, over)
	}
	if synctest.Wait(); !l.client.ended() {
		l.t.Error("more than the window has not ended the session")
	}
}

// read has the program read a stream: all that came, and nothing else.
func (l *liar) read(s *lied) {
	l.t.Helper()
	_ = s.SetReadDeadline(time.Now().Add(time.Millisecond))
	got, err := io.ReadAll(struct{ io.Reader }{s})
	if want := s.down(s.read, s.taken-s.read); !bytes.Equal(got, want) || err == nil {
		l.t.Errorf("stream %d: read %d bytes from %d on, %v; want the %d that came", s.id, len(got), s.read, err, len(want))
	}
	s.read += len(got)
}

// receive has the program read its datagrams.
func (l *liar) receive() {
	l.t.Helper()
	_ = l.flow.SetReadDeadline(time.Now().Add(time.Millisecond))
	var got []string
	b := make([]byte, 1<<16)
	for {
		n, err := l.flow.Read(b)
		if err != nil {
			break
		}
		got = append(got, string(b[:n]))
	}
	if !slices.Equal(got, l.loose) {
		l.t.Errorf("datagrams %q were read, want %q", got, l.loose)
	}
	l.loose = nil
}

// look looks at all that the client has sent since, and at what it keeps.
func (l *liar) look() {
	l.t.Helper()
	for i, line := range l.made() {
		if i == len(l.seen) {
			l.seen = append(l.seen, &seen{open: i == 0, told: l.took})
		}
		here := l.seen[i]
		for _, m := range line.since(here.payloads) {
			switch {
			case m.kind == wire.PayloadAttach && m.class == wire.Reliable:
				l.hear(i, here, m.p)
			case m.kind != wire.PayloadSession || !here.open:
				l.t.Fatalf("payload %d was sent on carrier %d before it was attached", m.kind, i)
			case m.class == wire.Datagram:
				l.sentLoose(m.p)
			default:
				l.sentPacket(here.next, m.p)
				here.next++
			}
			here.payloads++
		}
	}
	t := &l.client.m.trunk
	here := l.seen[len(l.seen)-1]
	if l.on() && here.open && here.next != l.sent() {
		l.t.Errorf("carrier %d has had the packets up to %d, want all %d", len(l.seen)-1, here.next, l.sent())
	}
	if n := t.outstanding(); n != l.sent()-l.acked {
		l.t.Errorf("%d packets are not acknowledged, want %d to %d", n, l.acked, l.sent())
	}
	if k := slabsOf(l.client); k > slabsBase {
		l.t.Errorf("%d bytes are kept, want at most %d", k*slabSize, wire.LeastWindow)
	}
	for _, s := range l.streams {
		if n := s.unread(); n > wire.StreamWindow {
			l.t.Errorf("stream %d holds %d bytes, want at most %d", s.id, n, wire.StreamWindow)
		}
	}
}

// hear takes a control message of the client.
func (l *liar) hear(i int, here *seen, p []byte) {
	l.t.Helper()
	m, err := wire.ParseSessionControl(p)
	if err != nil {
		l.t.Fatalf("sent what does not parse: %v", err)
	}
	first := here.payloads == 0
	good := !first
	switch m.Type {
	case wire.SessionAttach:
		good = first && m.Resume == (i > 0) && m.ID == l.client.id && m.Number == l.took
	case wire.SessionAck:
		good = good && m.Number > here.told && m.Number <= l.took
		here.told = m.Number
	case wire.SessionPing:
		good = good && m.Number > l.asked
		l.asked = m.Number
	case wire.SessionEnd:
		good = good && l.client.ended()
	default:
		good = false
	}
	if !good {
		l.t.Errorf("%v with %d was sent on carrier %d, after %d payloads, of %d packets that came", m.Type, m.Number, i, here.payloads, l.took)
	}
}

// sentPacket takes one of the client's packets. One that was seen before is the same.
func (l *liar) sentPacket(n wire.Number, p []byte) {
	l.t.Helper()
	before := l.early[n]
	if n < wire.Number(len(l.numbers)) {
		before = l.numbers[n]
	}
	if before != nil && !bytes.Equal(before, p) {
		l.t.Errorf("packet %d was sent again and is another one", n)
	}
	l.early[n] = p
	for p := l.early[wire.Number(len(l.numbers))]; p != nil; p = l.early[wire.Number(len(l.numbers))] {
		l.numbers = append(l.numbers, p)
		for len(p) > 0 {
			f, rest, err := wire.NextSessionFrame(p)
			if err != nil {
				l.t.Fatalf("sent a packet that does not parse: %v", err)
			}
			p = rest
			switch f.Type { //nolint:exhaustive // the others need nothing done
			case wire.SessionData:
				s := l.streams[f.Stream-1]
				if !bytes.Equal(f.Data, s.up(s.got, len(f.Data))) {
					l.t.Errorf("stream %d: at %d other bytes were sent than were written", s.id, s.got)
				}
				s.got += len(f.Data)
			case wire.SessionWindow:
				l.streams[f.Stream-1].granted += int(f.Window)
			}
		}
	}
}

// sentLoose takes datagrams of the client, or parts of one: each comes once.
func (l *liar) sentLoose(p []byte) {
	l.t.Helper()
	for len(p) > 0 {
		f, rest, err := wire.NextSessionFrame(p)
		if err != nil || f.Type != wire.SessionDatagram {
			l.t.Fatalf("sent %v among datagrams, %v", f.Type, err)
		}
		key := fmt.Sprintf("%v %x", f.Fragment, f.Data)
		if l.once[key] {
			l.t.Errorf("a datagram of %d bytes, or a part, was sent twice", len(f.Data))
		}
		l.once[key], p = true, rest
	}
}

// finish reads what has come, ends everything and looks at what is left.
func (l *liar) finish() {
	for _, s := range l.streams {
		l.read(s)
	}
	l.receive()
	l.client.Close()
	for _, s := range l.streams {
		close(s.orders)
		s.writer.Wait()
		_ = s.Close() // an error tells that it had ended
	}
	_ = l.flow.Close()
	l.look()
	m := l.client.m
	if used, extra := m.memory.used.Load(), m.memory.extra.Load(); used != 0 || extra != 0 {
		l.t.Errorf("after the end the client holds %d bytes, %d of window", used, extra)
	}
	if k := slabsOf(l.client); k != 0 {
		l.t.Errorf("after the end the client keeps %d slabs", k)
	}
}
