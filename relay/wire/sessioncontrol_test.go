package wire

import (
	"bytes"
	"fmt"
	"testing"
)

// oneOfEachControl returns each message of docs/protocol.md section 6.1.
func oneOfEachControl() (messages []SessionControl, bytes [][]byte) {
	id := SessionID(fill(SessionIDSize, 1))
	number := []byte{0, 0, 0, 0, 0, 1, 2, 3}
	add := func(m SessionControl, b ...[]byte) {
		messages = append(messages, m)
		var all []byte
		for _, p := range b {
			all = append(all, p...)
		}
		bytes = append(bytes, all)
	}
	add(SessionControl{Type: SessionAttach, ID: id}, []byte{1, 0}, id[:], make([]byte, 8))
	add(SessionControl{Type: SessionAttach, Resume: true, ID: id, Number: 66051}, []byte{1, 1}, id[:], number)
	add(SessionControl{Type: SessionAttached, Number: 66051}, []byte{2}, number)
	add(SessionControl{Type: SessionRefused, Refusal: RefusalUnknown}, []byte{3, 1})
	add(SessionControl{Type: SessionRefused, Refusal: RefusalBusy}, []byte{3, 2})
	add(SessionControl{Type: SessionAck, Number: 66051}, []byte{4}, number)
	add(SessionControl{Type: SessionPing, Number: 66051}, []byte{5}, number)
	add(SessionControl{Type: SessionPong, Number: 66051}, []byte{6}, number)
	add(SessionControl{Type: SessionEnd}, []byte{7})
	return messages, bytes
}

func TestSessionControlBytes(t *testing.T) {
	messages, want := oneOfEachControl()
	for i, m := range messages {
		got := m.Append(nil)
		if !bytes.Equal(got, want[i]) {
			t.Errorf("%v: %x, want %x", m.Type, got, want[i])
		}
		if parsed, err := ParseSessionControl(got); err != nil || parsed != m {
			t.Errorf("%v: parsed into another message, or %v", m.Type, err)
		}
		if len(got) > MaxSessionControl {
			t.Errorf("%v has %d bytes, more than %d", m.Type, len(got), MaxSessionControl)
		}
		if _, err := ParseSessionControl(append(got, 0)); err == nil {
			t.Errorf("%v with a byte more is accepted", m.Type)
		}
		for n := range got {
			if _, err := ParseSessionControl(got[:n]); err == nil {
				t.Errorf("%v cut to %d bytes is accepted", m.Type, n)
			}
		}
	}
}

func TestSessionControlRefused(t *testing.T) {
	attach := SessionControl{Type: SessionAttach}.Append(nil)
	flags, number := bytes.Clone(attach), bytes.Clone(attach)
	flags[1], number[len(number)-1] = 2, 1
	for name, b := range map[string][]byte{
		"nothing": {}, "type 0": {0}, "type 8": {8}, "unknown flag": flags, "a new session that expects packets": number,
		"refusal 0": {3, 0}, "refusal 3": {3, 3},
	} {
		if m, err := ParseSessionControl(b); err == nil || m != (SessionControl{}) {
			t.Errorf("%s: accepted, or something returned beside the error %v", name, err)
		}
	}
}

func TestSessionIDHidden(t *testing.T) {
	id := SessionID(fill(SessionIDSize, 0x41))
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
		if got := fmt.Sprintf(verb, id); got != "(session)" {
			t.Errorf("%s prints %q", verb, got)
		}
	}
}

// FuzzParseSessionControl checks that whatever is accepted is just what Append writes.
func FuzzParseSessionControl(f *testing.F) {
	_, all := oneOfEachControl()
	for _, b := range all {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ParseSessionControl(b)
		if err == nil && !bytes.Equal(m.Append(nil), b) {
			t.Fatalf("%v has a second encoding", m.Type)
		}
	})
}
