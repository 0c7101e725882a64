package link

import (
	"bytes"
	"errors"
	"io"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"cuttle/relay/onion"
	"cuttle/relay/wire"
)

var zeroBody = make([]byte, wire.BodySize)

func cells(id wire.CircuitID, n int) (b []byte) {
	for range n {
		b = wire.AppendCell(b, wire.Reliable, id, zeroBody)
	}
	return b
}

// TestFramesOutOfPlace feeds frames to the acceptor of a link on which circuit 1
// is open, circuit 2 waits for our answer, circuit 3 was refused, our circuit 1
// waits for theirs, our circuit 2 is open, and our circuit 3 is closed by us.
func TestFramesOutOfPlace(t *testing.T) {
	const ours = acceptorBit
	for name, test := range map[string]struct {
		record []byte
		want   error // nil: the link goes on
	}{
		"cell":                          {cells(1, 1), nil},
		"cells up to the credit":        {cells(1, 128), nil},
		"a cell beyond the credit":      {cells(1, 129), errOverrun},
		"cell of an unknown circuit":    {cells(9, 1), errCircuit},
		"cell before our answer":        {cells(2, 1), errState},
		"cell on a refused circuit":     {cells(3, 1), errState},
		"cell before their answer":      {cells(ours|1, 1), errState},
		"cell on our circuit":           {cells(ours|2, 1), nil},
		"cells crossing our close":      {cells(ours|3, 128), nil},
		"too many crossing our close":   {cells(ours|3, 129), errOverrun},
		"cell after their close":        {append(wire.AppendClose(nil, 1), cells(1, 1)...), errCircuit},
		"credit":                        {wire.AppendCredit(nil, 1, 5), nil},
		"credit before our answer":      {wire.AppendCredit(nil, 2, 5), errState},
		"credit before their answer":    {wire.AppendCredit(nil, ours|1, 5), errState},
		"credit on a refused circuit":   {wire.AppendCredit(nil, 3, 5), errState},
		"credit crossing our close":     {wire.AppendCredit(nil, ours|3, 5), nil},
		"credit without end":            {wire.AppendCredit(nil, 1, 1<<31), errState},
		"credit of an unknown circuit":  {wire.AppendCredit(nil, 77, 5), errCircuit},
		"create":                        {wire.AppendCreate(nil, 4, 1, testMsg1), nil},
		"create with a gap":             {wire.AppendCreate(nil, 400, 1, testMsg1), nil},
		"create with a used number":     {wire.AppendCreate(nil, 3, 1, testMsg1), errNumber},
		"create with number 0":          {wire.AppendCreate(nil, 0, 1, testMsg1), errNumber},
		"create with a number of ours":  {wire.AppendCreate(nil, ours|9, 1, testMsg1), errNumber},
		"created":                       {wire.AppendCreated(nil, ours|1, testMsg2), nil},
		"created twice":                 {wire.AppendCreated(nil, ours|2, testMsg2), errState},
		"created on their circuit":      {wire.AppendCreated(nil, 1, testMsg2), errState},
		"created on an unknown circuit": {wire.AppendCreated(nil, ours|9, testMsg2), errCircuit},
		"refuse":                        {wire.AppendRefuse(nil, ours|1, wire.ReasonBusy), nil},
		"refuse after created":          {wire.AppendRefuse(nil, ours|2, wire.ReasonBusy), errState},
		"refuse on their circuit":       {wire.AppendRefuse(nil, 2, wire.ReasonBusy), errState},
		"close":                         {wire.AppendClose(nil, 1), nil},
		"close of a refused circuit":    {wire.AppendClose(nil, 3), nil},
		"close crossing ours":           {wire.AppendClose(nil, ours|3), nil},
		"close twice":                   {append(wire.AppendClose(nil, 1), wire.AppendClose(nil, 1)...), errCircuit},
		"ping":                          {wire.AppendPing(nil, 1), nil},
		"pong that nobody asked for":    {wire.AppendPong(nil, 1), errState},
		"pad":                           {wire.AppendPad(nil, 100), nil},
	} {
		t.Run(name, func(t *testing.T) {
			l := prepared(t)
			if err := l.record(test.record); !errors.Is(err, test.want) {
				t.Fatalf("got %v, want %v", err, test.want)
			}
		})
	}
	for name, record := range map[string][]byte{
		"bill without billing": wire.AppendBill(nil, []byte("x")),
		"unknown frame":        {99},
		"half a frame":         cells(1, 1)[:700],
		"credit of nothing":    {byte(wire.FrameCredit), 0, 0, 0, 1, 0, 0, 0, 0},
		"pad that says more":   {byte(wire.FramePad), 0, 1, 7},
	} {
		t.Run(name, func(t *testing.T) {
			if err := prepared(t).record(record); err == nil {
				t.Fatal("the link goes on")
			}
		})
	}
}

// prepared makes the link that TestFramesOutOfPlace describes.
func prepared(t testing.TB) *Link {
	t.Helper()
	l, sw := bare(false, Config{})
	r := newSink(0)
	r.onCell = (*wire.Cell).Release
	for id := range wire.CircuitID(3) {
		if err := l.record(wire.AppendCreate(nil, id+1, 1, testMsg1)); err != nil {
			t.Fatal(err)
		}
	}
	if err := (<-sw.lanes).Created(testMsg2, r); err != nil {
		t.Fatal(err)
	}
	<-sw.lanes
	(<-sw.lanes).Refuse(wire.ReasonBusy)
	for i := range 3 {
		r := newSink(0)
		r.onCell = (*wire.Cell).Release
		ln, err := l.Open(1, testMsg1, r)
		if err != nil {
			t.Fatal(err)
		}
		if i > 0 {
			if err := l.record(wire.AppendCreated(nil, ln.id, testMsg2)); err != nil {
				t.Fatal(err)
			}
		}
		if i == 2 {
			ln.Close()
		}
	}
	for len(l.fill(nil)) > 0 {
	}
	return l
}

func TestTooManyCircuits(t *testing.T) {
	l, sw := bare(false, Config{MaxLanes: 3})
	sw.create = func(ln *Lane, _ []byte) {}
	var err error
	n := wire.CircuitID(0)
	for ; err == nil && n < 5000; n++ {
		err = l.record(wire.AppendCreate(nil, n+1, 1, testMsg1))
		l.fill(nil)
	}
	if !errors.Is(err, errLanes) || n != 3+spareLanes+1 {
		t.Errorf("circuit %d: %v, want %v at %d", n, err, errLanes, 3+spareLanes+1)
	}
	for range 3 {
		if _, err := l.Open(1, testMsg1, newSink(0)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := l.Open(1, testMsg1, newSink(0)); !errors.Is(err, ErrTooMany) {
		t.Errorf("Open: %v, want ErrTooMany", err)
	}
}

// hostile is a neighbor that has done the handshake and then writes what the
// test wants. end returns why the victim's link ended.
type hostile struct {
	conn   net.Conn
	sealer *onion.Sealer
	end    chan error
	sw     *acceptor
}

func newHostile(t *testing.T) *hostile {
	t.Helper()
	evil, victim := newTestNode(t, 1), newTestNode(t, 2)
	conn, other := net.Pipe()
	h := &hostile{conn: conn, end: make(chan error, 1), sw: newAcceptor()}
	go func() { // ends with the connection
		l, err := Accept(t.Context(), other, victim.cfg)
		if err == nil {
			err = l.Run(t.Context(), h.sw)
		}
		h.end <- err
	}()
	keys, err := initiate(conn, evil.cfg, victim.peer())
	if err != nil {
		t.Fatal(err)
	}
	if h.sealer, _, err = keys.Split(); err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.Copy(io.Discard, conn) }() // ends with the connection
	t.Cleanup(func() { _ = conn.Close() })
	return h
}

func (h *hostile) seal(plain []byte) []byte {
	buf := make([]byte, wire.RecordHead+len(plain)+wire.RecordTail)
	copy(buf[wire.RecordHead:], plain)
	return h.sealer.Seal(buf, len(plain))
}

func TestHostileNeighbor(t *testing.T) {
	for name, test := range map[string]struct {
		write func(h *hostile) [][]byte
		shut  bool // close the connection afterwards
	}{
		"garbage": {write: func(*hostile) [][]byte { return [][]byte{bytes.Repeat([]byte{0xa5}, 4000)} }},
		"a record with a bit changed": {write: func(h *hostile) [][]byte {
			b := h.seal(wire.AppendPing(nil, 1))
			b[len(b)-1] ^= 1
			return [][]byte{b}
		}},
		"a length with a bit changed": {write: func(h *hostile) [][]byte {
			b := h.seal(wire.AppendPing(nil, 1))
			b[0] ^= 1
			return [][]byte{b}
		}},
		"a record twice": {write: func(h *hostile) [][]byte {
			b := h.seal(wire.AppendPing(nil, 1))
			return [][]byte{b, slices.Clone(b)}
		}},
		"records in another order": {write: func(h *hostile) [][]byte {
			a, b := h.seal(wire.AppendPing(nil, 1)), h.seal(wire.AppendPing(nil, 2))
			return [][]byte{b, a}
		}},
		"half a record":   {func(h *hostile) [][]byte { return [][]byte{h.seal(wire.AppendPing(nil, 1))[:25]} }, true},
		"nothing":         {func(*hostile) [][]byte { return nil }, true},
		"unknown circuit": {write: func(h *hostile) [][]byte { return [][]byte{h.seal(cells(5, 1))} }},
		"unknown frame":   {write: func(h *hostile) [][]byte { return [][]byte{h.seal([]byte{200})} }},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHostile(t)
			for _, b := range test.write(h) {
				if _, err := h.conn.Write(b); err != nil {
					break // the victim has gone already
				}
			}
			if test.shut {
				_ = h.conn.Close()
			}
			if err := wait(t, h.end, "end of the link"); err == nil {
				t.Fatal("Run returned nil")
			}
		})
	}
}

// TestRecordsInPieces sends records byte by byte and many at once.
func TestRecordsInPieces(t *testing.T) {
	for _, piece := range []int{1, 7, 1000, 1 << 20} {
		h := newHostile(t)
		var stream []byte
		n := 50
		for i := range n {
			stream = append(stream, h.seal(wire.AppendCreate(nil, wire.CircuitID(i+1), 1, testMsg1))...)
			if i%10 == 0 {
				stream = append(stream, h.seal(wire.AppendPad(nil, wire.MaxRecord-wire.PadOverhead))...)
			}
		}
		if piece < 7 {
			stream, n = stream[:3*(wire.RecordHead+5+1+wire.HopMsg1Size+wire.RecordTail)], 1
		}
		for b := range slices.Chunk(stream, piece) {
			if _, err := h.conn.Write(b); err != nil {
				t.Fatal(err)
			}
		}
		for i := range n {
			if ln := wait(t, h.sw.lanes, "create"); ln.id != wire.CircuitID(i+1) {
				t.Fatalf("pieces of %d: circuit %d, want %d", piece, ln.id, i+1)
			}
		}
		_ = h.conn.Close()
		wait(t, h.end, "end of the link")
	}
}

func TestSilence(t *testing.T) {
	t.Run("an idle link lives", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			j := joinPipe(t)
			time.Sleep(time.Hour)
			synctest.Wait()
			select {
			case <-j.a.Done():
				t.Fatalf("ended: %v", j.a.err)
			default:
			}
			if j.a.RTT() == 0 || j.b.RTT() == 0 {
				t.Errorf("round trips %v and %v were not measured", j.a.RTT(), j.b.RTT())
			}
		})
	})
	t.Run("a silent neighbor is dead after 30 s", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := newHostile(t)
			start := time.Now()
			err := <-h.end
			if d := time.Since(start); !errors.Is(err, errDead) || d < deadAfter || d > deadAfter+keepaliveTick {
				t.Errorf("ended after %v by %v, want %v after %v", d, err, errDead, deadAfter)
			}
		})
	})
	t.Run("a neighbor that sends but never answers is dead after 60 s", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := newHostile(t)
			go func() { // ends with the connection
				for {
					if _, err := h.conn.Write(h.seal(wire.AppendPad(nil, 1))); err != nil {
						return
					}
					time.Sleep(time.Second)
				}
			}()
			start := time.Now()
			err := <-h.end
			if d := time.Since(start); !errors.Is(err, errDeaf) || d < deafAfter || d > deafAfter+2*keepaliveTick {
				t.Errorf("ended after %v by %v, want %v after %v", d, err, errDeaf, deafAfter)
			}
			_ = h.conn.Close()
			time.Sleep(2 * time.Second) // the writer ends
		})
	})
	t.Run("a handshake takes 10 s at most", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			for name, f := range map[string]func(net.Conn) error{
				"accept": func(c net.Conn) error { _, err := Accept(t.Context(), c, newTestNode(t, 1).cfg); return err },
				"dial": func(c net.Conn) error {
					_, err := Dial(t.Context(), c, newTestNode(t, 1).cfg, newTestNode(t, 2).peer())
					return err
				},
			} {
				ca, cb := net.Pipe()
				start := time.Now()
				if err := f(ca); err == nil {
					t.Errorf("%s succeeded with nobody there", name)
				}
				if d := time.Since(start); d != handshakeTime {
					t.Errorf("%s gave up after %v, want %v", name, d, handshakeTime)
				}
				_ = cb.Close()
			}
		})
	})
}

// FuzzLinkFrames gives random plaintexts to the frame handler of a link with
// lanes in every state and checks what must hold whatever a neighbor sends.
func FuzzLinkFrames(f *testing.F) {
	f.Add(cells(1, 2))
	f.Add(wire.AppendCreate(nil, 4, 1, testMsg1))
	f.Add(append(wire.AppendClose(nil, 1), wire.AppendCredit(nil, acceptorBit|2, 9)...))
	f.Add(append(wire.AppendCreated(nil, acceptorBit|1, testMsg2), cells(acceptorBit|1, 1)...))
	f.Add(append(wire.AppendRefuse(nil, acceptorBit|1, wire.ReasonBusy), wire.AppendPing(nil, 3)...))
	f.Add(append(wire.AppendPad(nil, 3), wire.AppendBill(nil, []byte("hello"))...))
	f.Fuzz(func(t *testing.T, plain []byte) {
		l := prepared(t)
		err := l.record(plain)
		if err == nil {
			for len(l.fill(nil)) > 0 {
			}
		}
		for id, ln := range l.lanes {
			if ln.id != id {
				t.Fatalf("lane %d is listed as %d", ln.id, id)
			}
			if err == nil && ln.in.left.Load() < 0 {
				t.Fatalf("lane %d is overrun and the link goes on", id)
			}
		}
		l.endLanes()
		if g, q := l.budget.Granted(), l.queued.Load(); g != 0 || q != 0 {
			t.Fatalf("after the end %d bytes are granted and %d cells queued", g, q)
		}
	})
}
