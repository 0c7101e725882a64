package wire

import (
	"strings"
	"testing"
)

func TestGeometry(t *testing.T) {
	for _, c := range []struct {
		name      string
		got, want int
	}{
		{"payload", PayloadSize, 1256},
		{"session packet", SessionPacketSize, 1255},
		{"hop msg1", HopMsg1Size, 2432},
		{"hop msg2", HopMsg2Size, 1200},
		{"link msg1", LinkMsg1Size, 6544},
		{"link msg2", LinkMsg2Size, 2336},
		{"link msg3", LinkMsg3Size, 80},
		{"record head", RecordHead, 19},
		{"cell frame", CellFrameSize, 1381},
	} {
		if c.got != c.want {
			t.Errorf("%s has %d bytes, docs/protocol.md says %d", c.name, c.got, c.want)
		}
	}
}

func TestNodeIDText(t *testing.T) {
	id := NodeID(fill(NodeIDSize, 3))
	s := id.String()
	if len(s) != 52 || s != strings.ToLower(s) {
		t.Errorf("String() = %q, want 52 lower-case characters", s)
	}
	for _, text := range []string{s, strings.ToUpper(s)} {
		if got, err := ParseNodeID(text); err != nil || got != id {
			t.Errorf("ParseNodeID(%q) = %v, %v", text, got, err)
		}
	}
	// The last character holds one bit that belongs to the key and four that must be zero.
	for _, bad := range []string{"", s[:51], s + "a", s[:51] + "1", s[:51] + "b", " " + s[1:], s[:26] + "\n" + s[27:], s + "\n"} {
		if _, err := ParseNodeID(bad); err == nil {
			t.Errorf("ParseNodeID(%q) accepted", bad)
		}
	}
	if !(NodeID{}).IsZero() || id.IsZero() {
		t.Error("IsZero is wrong")
	}
}

func TestCellWindow(t *testing.T) {
	c := NewCell(Datagram)
	defer c.Release()
	if c.Class != Datagram || len(c.Body()) != BodySize || len(c.Payload()) != PayloadSize {
		t.Fatalf("class %v, body %d, payload %d bytes", c.Class, len(c.Body()), len(c.Payload()))
	}
	c.Body()[SlotSize] = 42
	if c.Payload()[0] != 42 {
		t.Error("payload does not begin behind the first slot")
	}
	// As far as a cell of MaxHops hops goes either way, with room for a tag behind.
	for _, delta := range []int{-MaxHops * SlotSize, 2 * MaxHops * SlotSize} {
		c.Move(delta)
		if got := len(c.Extended(TagSize)); got != BodySize+TagSize {
			t.Errorf("after %d: extended window of %d bytes", delta, got)
		}
	}
}
