package wire

import "fmt"

// The first byte of a payload, docs/protocol.md section 4.3.
const (
	PayloadControl byte = 1 // a fragment of a circuit message
	PayloadSession byte = 2 // a session packet; only to and from the last hop
	PayloadAttach  byte = 3 // session control, as PayloadSession
)

// MessageType is the first byte of a circuit message, docs/protocol.md section 4.3.
type MessageType uint8

// The messages of a circuit.
const (
	MessageExtend        MessageType = 1
	MessageExtended      MessageType = 2
	MessageExtendRefused MessageType = 3
)

// Message is one circuit message. Which fields count depends on Type; the
// others are zero. Handshake is a slice of the bytes that were parsed.
type Message struct {
	Type      MessageType
	Tier      Tier   // extend: offered to the next hop
	Reason    Reason // extend refused
	Next      NodeID // extend
	Handshake []byte // extend: msg1; extended: msg2
}

// ParseMessage reads an assembled circuit message.
func ParseMessage(b []byte) (Message, error) {
	if len(b) == 0 {
		return Message{}, fmt.Errorf("circuit message: %w", errShort)
	}
	m := Message{Type: MessageType(b[0])}
	want := 0
	switch m.Type {
	case MessageExtend:
		want = 1 + NodeIDSize + 1 + HopMsg1Size
	case MessageExtended:
		want = 1 + HopMsg2Size
	case MessageExtendRefused:
		want = 2
	default:
		return Message{}, fmt.Errorf("circuit message: %w", errUnknown)
	}
	switch {
	case len(b) < want:
		return Message{}, fmt.Errorf("circuit message %d: %w", b[0], errShort)
	case len(b) > want:
		return Message{}, fmt.Errorf("circuit message %d: %w", b[0], errTrail)
	}
	switch m.Type {
	case MessageExtend:
		copy(m.Next[:], b[1:])
		m.Tier = Tier(b[1+NodeIDSize])
		m.Handshake = b[1+NodeIDSize+1:]
	case MessageExtended:
		m.Handshake = b[1:]
	case MessageExtendRefused:
		if m.Reason = Reason(b[1]); !m.Reason.valid() {
			return Message{}, fmt.Errorf("circuit message %d: %w", b[0], errRange)
		}
	}
	return m, nil
}

// AppendExtend appends an EXTEND; msg1 has HopMsg1Size bytes.
func AppendExtend(b []byte, next NodeID, tier Tier, msg1 []byte) []byte {
	mustSize("hop msg1", len(msg1), HopMsg1Size, HopMsg1Size)
	b = append(append(b, byte(MessageExtend)), next[:]...)
	return append(append(b, byte(tier)), msg1...)
}

// AppendExtended appends an EXTENDED; msg2 has HopMsg2Size bytes.
func AppendExtended(b []byte, msg2 []byte) []byte {
	mustSize("hop msg2", len(msg2), HopMsg2Size, HopMsg2Size)
	return append(append(b, byte(MessageExtended)), msg2...)
}

// AppendExtendRefused appends an EXTEND REFUSED.
func AppendExtendRefused(b []byte, r Reason) []byte {
	return append(b, byte(MessageExtendRefused), byte(r))
}

const fragmentLast = 1

// PutFragment writes the next control fragment of msg to payload and returns
// how many bytes of payload it used and what of msg is left for further
// fragments. payload has more than FragmentOverhead bytes, msg 1 to MaxControl.
func PutFragment(payload, msg []byte) (n int, rest []byte) {
	mustSize("circuit message", len(msg), 1, MaxControl)
	mustSize("payload", len(payload), FragmentOverhead+1, PayloadSize)
	payload[0], payload[1] = PayloadControl, 0
	k := copy(payload[FragmentOverhead:], msg)
	if k == len(msg) {
		payload[1] = fragmentLast
	}
	return FragmentOverhead + k, msg[k:]
}

// Assembler puts control fragments together again. The zero value is ready; it
// holds at most MaxControl bytes and belongs to one goroutine.
type Assembler struct{ buf []byte }

// Add takes one control fragment (the whole payload, its first byte included).
// It returns the message, which is the caller's then, when this was the last
// fragment, else nil. After an error the circuit is to be closed.
func (a *Assembler) Add(payload []byte) ([]byte, error) {
	if len(payload) <= FragmentOverhead {
		return nil, fmt.Errorf("control fragment: %w", errShort)
	}
	if payload[0] != PayloadControl {
		return nil, fmt.Errorf("control fragment: %w", errUnknown)
	}
	if payload[1]&^fragmentLast != 0 {
		return nil, fmt.Errorf("control fragment: %w", errNonZero)
	}
	data := payload[FragmentOverhead:]
	if len(a.buf)+len(data) > MaxControl {
		a.buf = nil
		return nil, fmt.Errorf("control fragment: %w: more than %d bytes", errRange, MaxControl)
	}
	a.buf = append(a.buf, data...)
	if payload[1] != fragmentLast {
		return nil, nil
	}
	msg := a.buf
	a.buf = nil
	return msg, nil
}
