package wire

import (
	"encoding/binary"
	"fmt"
)

// SessionFrameType is the first byte of a frame in a session packet,
// docs/protocol.md section 6.
type SessionFrameType uint8

// The frames of a session.
const (
	SessionOpen     SessionFrameType = 1
	SessionOpened   SessionFrameType = 2
	SessionReset    SessionFrameType = 3
	SessionData     SessionFrameType = 4
	SessionFin      SessionFrameType = 5
	SessionWindow   SessionFrameType = 6
	SessionDatagram SessionFrameType = 7
)

var sessionNames = [...]string{"", "open", "opened", "reset", "data", "fin", "window", "datagram"}

// String gives the frame's name in lower case.
func (t SessionFrameType) String() string {
	if t >= SessionOpen && t <= SessionDatagram {
		return sessionNames[t]
	}
	return fmt.Sprintf("session frame %d", uint8(t))
}

// Kind says what a stream carries.
type Kind uint8

// The kinds of streams.
const (
	KindTCP Kind = 1
	KindUDP Kind = 2
	KindDNS Kind = 3
	// KindEcho carries ICMP echo; its destination has port 0.
	KindEcho Kind = 4
)

// String gives the kind's name in lower case.
func (k Kind) String() string {
	switch k {
	case KindTCP:
		return "tcp"
	case KindUDP:
		return "udp"
	case KindDNS:
		return "dns"
	case KindEcho:
		return "echo"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// SessionFrame is one frame of a session packet. Which fields count depends on
// Type; the others are zero. Data is a slice of the bytes that were parsed.
type SessionFrame struct {
	Type        SessionFrameType
	Kind        Kind // open
	Code        Code // reset
	Stream      StreamID
	Window      uint32      // window: bytes, not 0
	Destination Destination // open; datagram: the peer, if it is not the one of OPEN
	Fragment    Fragment    // datagram: which part of one it is
	Data        []byte      // data (not empty), datagram
}

// Fragment says which part of a datagram a frame carries. The zero value is all of
// it.
type Fragment struct {
	Part   bool   // it is one of several
	Last   bool   // of them
	Place  uint8  // 0 for the first, at most MaxPlace
	Number uint16 // of the datagram, the same in all its fragments
}

// valid tells whether there is such a fragment; a whole datagram has no place.
func (f Fragment) valid() bool {
	if !f.Part {
		return f == Fragment{}
	}
	return f.Place <= MaxPlace && (f.Place > 0 || !f.Last)
}

// MaxPlace is the place of the last fragment that a datagram can have.
const MaxPlace = 63

// The flags of DATAGRAM, and the one in front of a fragment's place.
const (
	flagPart = 1 << 0
	flagPeer = 1 << 1
	flagLast = 1 << 7
)

const sessionHead = 1 + 4

// NextSessionFrame reads the first frame of a session packet (a payload after
// its first byte), which must not be empty, and returns what follows it. It
// allocates only for OPEN and errors.
func NextSessionFrame(b []byte) (f SessionFrame, rest []byte, err error) {
	if len(b) < sessionHead {
		return f, nil, fmt.Errorf("session frame: %w", errShort)
	}
	f.Type = SessionFrameType(b[0])
	f.Stream = StreamID(binary.BigEndian.Uint32(b[1:]))
	n, err := f.parse(b[sessionHead:])
	if err == nil && f.Stream == 0 {
		err = errRange
	}
	if err != nil {
		return SessionFrame{}, nil, fmt.Errorf("session %v: %w", SessionFrameType(b[0]), err)
	}
	return f, b[sessionHead+n:], nil
}

// parse reads what follows the stream number and returns how many bytes that were.
func (f *SessionFrame) parse(b []byte) (int, error) {
	switch f.Type {
	case SessionOpened, SessionFin:
		return 0, nil
	case SessionOpen:
		return f.parseOpen(b)
	case SessionReset:
		if len(b) < 1 {
			return 0, errShort
		}
		if f.Code = Code(b[0]); !f.Code.valid() {
			return 0, errRange
		}
		return 1, nil
	case SessionData:
		n, err := f.counted(b)
		if err == nil && n == 2 {
			return 0, errRange
		}
		return n, err
	case SessionWindow:
		if len(b) < 4 {
			return 0, errShort
		}
		if f.Window = binary.BigEndian.Uint32(b); f.Window == 0 {
			return 0, errRange
		}
		return 4, nil
	case SessionDatagram:
		return f.parseDatagram(b)
	}
	return 0, errUnknown
}

func (f *SessionFrame) parseDatagram(b []byte) (int, error) {
	if len(b) < 1 {
		return 0, errShort
	}
	flags, n := b[0], 1
	if flags&^(flagPart|flagPeer) != 0 {
		return 0, errNonZero
	}
	if flags&flagPart != 0 {
		if len(b) < n+PlaceSize {
			return 0, errShort
		}
		place := b[n+2]
		f.Fragment = Fragment{Part: true, Last: place&flagLast != 0, Place: place &^ flagLast, Number: binary.BigEndian.Uint16(b[n:])}
		n += PlaceSize
		if !f.Fragment.valid() {
			return 0, errRange
		}
	}
	if flags&flagPeer != 0 {
		if f.Fragment.Place > 0 {
			return 0, errNonZero // the first fragment has said it
		}
		peer, k, err := parseDestination(b[n:])
		if err != nil {
			return 0, err
		}
		if peer.IsZero() {
			return 0, errRange
		}
		f.Destination = peer
		n += k
	}
	k, err := f.counted(b[n:])
	if err == nil && f.Fragment.Part && k == 2 {
		return 0, errRange // a fragment that adds nothing
	}
	return n + k, err
}

func (f *SessionFrame) parseOpen(b []byte) (int, error) {
	if len(b) < 1 {
		return 0, errShort
	}
	f.Kind = Kind(b[0])
	if f.Kind < KindTCP || f.Kind > KindEcho {
		return 0, errRange
	}
	d, n, err := parseDestination(b[1:])
	if err != nil {
		return 0, err
	}
	if d.IsZero() != (f.Kind == KindDNS) {
		return 0, errRange
	}
	if f.Kind == KindEcho && d.Reveal().Port() != 0 {
		return 0, errNonZero
	}
	f.Destination = d
	return 1 + n, nil
}

// counted reads u16 length and as many bytes of data.
func (f *SessionFrame) counted(b []byte) (int, error) {
	if len(b) < 2 {
		return 0, errShort
	}
	n := 2 + int(binary.BigEndian.Uint16(b))
	if len(b) < n {
		return 0, errShort
	}
	f.Data = b[2:n:n]
	return n, nil
}

func appendSessionHead(b []byte, t SessionFrameType, id StreamID) []byte {
	return binary.BigEndian.AppendUint32(append(b, byte(t)), uint32(id))
}

// AppendOpen appends an OPEN frame, at most MaxOpenSize bytes. A DNS stream has
// no destination, every other kind has one.
func AppendOpen(b []byte, id StreamID, k Kind, d Destination) []byte {
	if d.IsZero() != (k == KindDNS) {
		panic("wire: open of kind " + k.String() + " with the wrong sort of destination")
	}
	return d.appendTo(append(appendSessionHead(b, SessionOpen, id), byte(k)))
}

// AppendOpened appends an OPENED frame.
func AppendOpened(b []byte, id StreamID) []byte { return appendSessionHead(b, SessionOpened, id) }

// AppendReset appends a RESET frame.
func AppendReset(b []byte, id StreamID, c Code) []byte {
	return append(appendSessionHead(b, SessionReset, id), byte(c))
}

// AppendData appends a DATA frame of DataOverhead + len(data) bytes; data is
// not empty.
func AppendData(b []byte, id StreamID, data []byte) []byte {
	mustSize("stream data", len(data), 1, SessionPacketSize-DataOverhead)
	b = binary.BigEndian.AppendUint16(appendSessionHead(b, SessionData, id), uint16(len(data)))
	return append(b, data...)
}

// AppendFin appends a FIN frame.
func AppendFin(b []byte, id StreamID) []byte { return appendSessionHead(b, SessionFin, id) }

// AppendWindow appends a WINDOW frame for n more bytes; n is not 0.
func AppendWindow(b []byte, id StreamID, n uint32) []byte {
	return binary.BigEndian.AppendUint32(appendSessionHead(b, SessionWindow, id), n)
}

// AppendDatagram appends a DATAGRAM frame of DatagramOverhead + len(data) bytes, and
// PlaceSize more for a fragment, up to MaxPeerSize more with a peer. Only the first
// fragment may have one; data may be empty unless it is a fragment.
func AppendDatagram(b []byte, id StreamID, part Fragment, peer Destination, data []byte) []byte {
	if !part.valid() || part.Place > 0 && !peer.IsZero() {
		panic("wire: append a fragment that cannot be")
	}
	least, flags := 0, byte(0)
	if part.Part {
		least, flags = 1, flagPart
	}
	if !peer.IsZero() {
		flags |= flagPeer
	}
	mustSize("datagram fragment", len(data), least, SessionPacketSize-DatagramOverhead)
	b = append(appendSessionHead(b, SessionDatagram, id), flags)
	if part.Part {
		place := part.Place
		if part.Last {
			place |= flagLast
		}
		b = append(binary.BigEndian.AppendUint16(b, part.Number), place)
	}
	if !peer.IsZero() {
		b = peer.appendTo(b)
	}
	return append(binary.BigEndian.AppendUint16(b, uint16(len(data))), data...)
}
