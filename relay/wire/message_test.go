package wire

import (
	"bytes"
	"testing"
)

func reencodeMessage(m Message) []byte {
	switch m.Type {
	case MessageExtend:
		return AppendExtend(nil, m.Next, m.Tier, m.Handshake)
	case MessageExtended:
		return AppendExtended(nil, m.Handshake)
	case MessageExtendRefused:
		return AppendExtendRefused(nil, m.Reason)
	}
	return nil
}

func oneOfEachMessage() [][]byte {
	return [][]byte{
		AppendExtend(nil, NodeID(fill(NodeIDSize, 1)), 9, fill(HopMsg1Size, 2)),
		AppendExtended(nil, fill(HopMsg2Size, 3)),
		AppendExtendRefused(nil, ReasonTierTooLow),
	}
}

func TestMessageRoundTrip(t *testing.T) {
	for _, b := range oneOfEachMessage() {
		m, err := ParseMessage(b)
		if err != nil || !bytes.Equal(reencodeMessage(m), b) {
			t.Errorf("message %d does not survive a round trip: %v", b[0], err)
		}
		for _, n := range []int{0, 1, len(b) - 1} {
			if _, err := ParseMessage(b[:n]); err == nil {
				t.Errorf("message %d cut to %d bytes is accepted", b[0], n)
			}
		}
		if _, err := ParseMessage(append(bytes.Clone(b), 0)); err == nil {
			t.Errorf("message %d with a byte more is accepted", b[0])
		}
	}
	m, err := ParseMessage(oneOfEachMessage()[0])
	if err != nil || m.Tier != 9 || m.Next != NodeID(fill(NodeIDSize, 1)) || !bytes.Equal(m.Handshake, fill(HopMsg1Size, 2)) {
		t.Errorf("extend: tier %d, next %v, %v", m.Tier, m.Next, err)
	}
	for _, bad := range [][]byte{{0, 1}, {4, 1}, {3, 0}, {3, 7}} {
		if _, err := ParseMessage(bad); err == nil {
			t.Errorf("message %x is accepted", bad)
		}
	}
}

func TestFragments(t *testing.T) {
	var a Assembler
	for _, size := range []int{1, PayloadSize - 3, PayloadSize - 2, PayloadSize - 1, 2 * (PayloadSize - 2), 2466, MaxControl} {
		want := fill(size, byte(size))
		var got []byte
		fragments := 0
		for rest := want; len(rest) > 0; fragments++ {
			if got != nil {
				t.Fatalf("message of %d bytes is complete before its last fragment", size)
			}
			payload := fill(PayloadSize, 0xaa)
			var n int
			n, rest = PutFragment(payload, rest)
			var err error
			if got, err = a.Add(payload[:n]); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(got, want) {
			t.Errorf("message of %d bytes came out with %d", size, len(got))
		}
		if most := (size + PayloadSize - 3) / (PayloadSize - 2); fragments != most {
			t.Errorf("message of %d bytes in %d fragments, want %d", size, fragments, most)
		}
	}
}

func TestAssemblerRefuses(t *testing.T) {
	for name, b := range map[string][]byte{
		"nothing":       {},
		"no data":       {1, 1},
		"session":       {2, 1, 0},
		"unknown flags": {1, 2, 0},
	} {
		var a Assembler
		if msg, err := a.Add(b); err == nil || msg != nil {
			t.Errorf("%s: accepted", name)
		}
	}
	var a Assembler
	fragment := append([]byte{1, 0}, fill(1024, 1)...)
	for range 4 {
		if msg, err := a.Add(fragment); err != nil || msg != nil {
			t.Fatalf("fragment of a long message: %v", err)
		}
	}
	if _, err := a.Add([]byte{1, 1, 7}); err == nil {
		t.Error("message of 4097 bytes is accepted")
	}
}

func FuzzParseMessage(f *testing.F) {
	for _, b := range oneOfEachMessage() {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := ParseMessage(b); err == nil && !bytes.Equal(reencodeMessage(m), b) {
			t.Fatalf("message %d has a second encoding", m.Type)
		}
	})
}

// FuzzAssembler feeds fragments whose length is the byte before each.
func FuzzAssembler(f *testing.F) {
	f.Add([]byte{3, 1, 0, 9, 3, 1, 1, 9})
	f.Fuzz(func(t *testing.T, b []byte) {
		var a Assembler
		for len(b) > 0 {
			n := min(int(b[0]), len(b)-1)
			msg, err := a.Add(b[1 : 1+n])
			if err != nil {
				return
			}
			if len(a.buf) > MaxControl || len(msg) > MaxControl {
				t.Fatal("assembler holds too much")
			}
			b = b[1+n:]
		}
	})
}
