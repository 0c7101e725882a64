package link

import (
	"errors"
	"testing"

	"cuttle/relay/wire"
)

// TestClosingEverythingKeepsTheLink: when another neighbor goes away, all the
// circuits it had through this link are closed at once, before the writer comes
// round. That must not cost the link.
func TestClosingEverythingKeepsTheLink(t *testing.T) {
	const circuits = 3 * maxControl
	p := newPair(t, Config{}, Config{})
	var lanes []*Lane
	for range circuits {
		r := newSink(0)
		ln, err := p.a.Open(1, testMsg1, r)
		if err != nil {
			t.Fatal(err)
		}
		lanes = append(lanes, ln)
		p.shuttle(p.a, p.b)
		if err := (<-p.swB.lanes).Created(testMsg2, newSink(0)); err != nil {
			t.Fatal(err)
		}
		p.shuttle(p.b, p.a)
	}
	for _, ln := range lanes {
		ln.Close()
	}
	p.a.control(wire.AppendPad(nil, 1)) // other frames still have room
	if p.a.err != nil {
		t.Fatalf("closing %d circuits ended the link: %v", circuits, p.a.err)
	}
	for range circuits {
		p.shuttle(p.a, p.b)
		p.shuttle(p.b, p.a)
	}
	if n := p.a.Status().Lanes; n != 0 {
		t.Errorf("%d lanes are left, want none", n)
	}
}

// TestOpeningTooFastKeepsTheLink: whoever extends circuits through us as fast as
// he can is refused; the link to the node he extends to stays up, and has room
// for what its neighbor is to be answered.
func TestOpeningTooFastKeepsTheLink(t *testing.T) {
	l, _ := bare(true, Config{})
	n := 0
	for ; n < 2*maxControl; n++ {
		_, err := l.Open(1, testMsg1, newSink(0))
		if errors.Is(err, ErrTooMany) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if n == 2*maxControl || l.err != nil {
		t.Fatalf("after %d circuits that wait to be asked for: link ended by %v, want a refusal", n, l.err)
	}
	for range maxControl / 4 {
		l.control(wire.AppendPong(nil, 1))
	}
	if l.err != nil {
		t.Errorf("no room for answers: %v", l.err)
	}
}
