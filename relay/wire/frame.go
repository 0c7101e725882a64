package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// FrameType is the first byte of a frame on a link, docs/protocol.md section 5.
type FrameType uint8

// The frames of a link.
const (
	FramePad FrameType = iota
	FrameCell
	FrameDatagramCell
	FrameCredit
	FrameCreate
	FrameCreated
	FrameRefuse
	FrameClose
	FramePing
	FramePong
	FrameBill
)

var frameNames = [...]string{"pad", "cell", "datagram cell", "credit", "create", "created", "refuse", "close", "ping", "pong", "bill"}

// String gives the frame's name in lower case.
func (t FrameType) String() string {
	if int(t) < len(frameNames) {
		return frameNames[t]
	}
	return fmt.Sprintf("frame %d", uint8(t))
}

// Frame is one frame of a link's record. Which fields count depends on Type;
// the others are zero. Body is a slice of the bytes that were parsed.
type Frame struct {
	Type    FrameType
	Class   Class     // cell, datagram cell
	Tier    Tier      // create
	Reason  Reason    // refuse
	Circuit CircuitID // all but pad, ping, pong, bill
	Credit  uint32    // credit: cells, not 0
	Token   uint64    // ping, pong
	Body    []byte    // cells: body; create: msg1; created: msg2; bill: the message
}

var (
	errShort   = errors.New("too short")
	errUnknown = errors.New("unknown type")
	errRange   = errors.New("value out of range")
	errNonZero = errors.New("reserved bytes are not zero")
	errTrail   = errors.New("trailing bytes")
)

// NextFrame reads the first frame of b, which must not be empty, and returns
// what follows it. It allocates nothing unless it fails.
func NextFrame(b []byte) (f Frame, rest []byte, err error) {
	if len(b) == 0 {
		return f, nil, fmt.Errorf("frame: %w", errShort)
	}
	f.Type = FrameType(b[0])
	n, err := f.parse(b[1:])
	if err != nil {
		return Frame{}, nil, fmt.Errorf("%v frame: %w", FrameType(b[0]), err)
	}
	return f, b[1+n:], nil
}

// parse reads what follows the type and returns how many bytes that were.
func (f *Frame) parse(b []byte) (int, error) {
	switch f.Type {
	case FrameCell, FrameDatagramCell:
		if f.Type == FrameDatagramCell {
			f.Class = Datagram
		}
		return f.circuitAnd(b, 0, BodySize)
	case FrameCredit:
		n, err := f.circuitAnd(b, 4, 0)
		if err != nil {
			return 0, err
		}
		if f.Credit = binary.BigEndian.Uint32(b[4:]); f.Credit == 0 {
			return 0, errRange
		}
		return n, nil
	case FrameCreate:
		n, err := f.circuitAnd(b, 1, HopMsg1Size)
		if err != nil {
			return 0, err
		}
		f.Tier = Tier(b[4])
		return n, nil
	case FrameCreated:
		return f.circuitAnd(b, 0, HopMsg2Size)
	case FrameRefuse:
		n, err := f.circuitAnd(b, 1, 0)
		if err != nil {
			return 0, err
		}
		if f.Reason = Reason(b[4]); !f.Reason.valid() {
			return 0, errRange
		}
		return n, nil
	case FrameClose:
		return f.circuitAnd(b, 0, 0)
	case FramePing, FramePong:
		if len(b) < 8 {
			return 0, errShort
		}
		f.Token = binary.BigEndian.Uint64(b)
		return 8, nil
	case FramePad, FrameBill:
		return f.counted(b)
	}
	return 0, errUnknown
}

// circuitAnd reads the circuit number, skips some bytes and takes body bytes.
func (f *Frame) circuitAnd(b []byte, skip, body int) (int, error) {
	n := 4 + skip + body
	if len(b) < n {
		return 0, errShort
	}
	f.Circuit = CircuitID(binary.BigEndian.Uint32(b))
	if body > 0 {
		f.Body = b[4+skip : n : n]
	}
	return n, nil
}

// counted reads a PAD or BILL frame: u16 length and as many bytes.
func (f *Frame) counted(b []byte) (int, error) {
	if len(b) < 2 {
		return 0, errShort
	}
	n := 2 + int(binary.BigEndian.Uint16(b))
	if len(b) < n {
		return 0, errShort
	}
	body := b[2:n:n]
	if f.Type == FramePad {
		if !allZero(body) {
			return 0, errNonZero
		}
		return n, nil
	}
	if len(body) == 0 || len(body) > MaxBill {
		return 0, errRange
	}
	f.Body = body
	return n, nil
}

// allZero tells whether every byte of b is zero. Its time depends on b.
func allZero(b []byte) bool {
	for len(b) >= 8 {
		if binary.NativeEndian.Uint64(b) != 0 {
			return false
		}
		b = b[8:]
	}
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}

func appendHead(b []byte, t FrameType, id CircuitID) []byte {
	return binary.BigEndian.AppendUint32(append(b, byte(t)), uint32(id))
}

// mustSize panics when our own caller hands over a part of the wrong size: the
// frame would be read as something else.
func mustSize(what string, got, least, most int) {
	if got < least || got > most {
		panic(fmt.Sprintf("wire: %s of %d bytes, want %d to %d", what, got, least, most))
	}
}

var zeros [4096]byte

// AppendPad appends a PAD frame of PadOverhead + n bytes; n is at most MaxPad.
func AppendPad(b []byte, n int) []byte {
	mustSize("pad", n, 0, MaxPad)
	b = binary.BigEndian.AppendUint16(append(b, byte(FramePad)), uint16(n))
	for n > 0 {
		m := min(n, len(zeros))
		b = append(b, zeros[:m]...)
		n -= m
	}
	return b
}

// AppendCell appends a CELL or DATAGRAM CELL frame; body has BodySize bytes.
func AppendCell(b []byte, class Class, id CircuitID, body []byte) []byte {
	mustSize("cell body", len(body), BodySize, BodySize)
	t := FrameCell
	if class == Datagram {
		t = FrameDatagramCell
	}
	return append(appendHead(b, t, id), body...)
}

// AppendCredit appends a CREDIT frame for n more cells; n is not 0.
func AppendCredit(b []byte, id CircuitID, n uint32) []byte {
	return binary.BigEndian.AppendUint32(appendHead(b, FrameCredit, id), n)
}

// AppendCreate appends a CREATE frame; msg1 has HopMsg1Size bytes.
func AppendCreate(b []byte, id CircuitID, tier Tier, msg1 []byte) []byte {
	mustSize("hop msg1", len(msg1), HopMsg1Size, HopMsg1Size)
	return append(append(appendHead(b, FrameCreate, id), byte(tier)), msg1...)
}

// AppendCreated appends a CREATED frame; msg2 has HopMsg2Size bytes.
func AppendCreated(b []byte, id CircuitID, msg2 []byte) []byte {
	mustSize("hop msg2", len(msg2), HopMsg2Size, HopMsg2Size)
	return append(appendHead(b, FrameCreated, id), msg2...)
}

// AppendRefuse appends a REFUSE frame.
func AppendRefuse(b []byte, id CircuitID, r Reason) []byte {
	return append(appendHead(b, FrameRefuse, id), byte(r))
}

// AppendClose appends a CLOSE frame.
func AppendClose(b []byte, id CircuitID) []byte { return appendHead(b, FrameClose, id) }

// AppendPing appends a PING frame.
func AppendPing(b []byte, token uint64) []byte {
	return binary.BigEndian.AppendUint64(append(b, byte(FramePing)), token)
}

// AppendPong appends the answer to a PING with that token.
func AppendPong(b []byte, token uint64) []byte {
	return binary.BigEndian.AppendUint64(append(b, byte(FramePong)), token)
}

// AppendBill appends a BILL frame; msg has 1 to MaxBill bytes.
func AppendBill(b []byte, msg []byte) []byte {
	mustSize("bill message", len(msg), 1, MaxBill)
	b = binary.BigEndian.AppendUint16(append(b, byte(FrameBill)), uint16(len(msg)))
	return append(b, msg...)
}
