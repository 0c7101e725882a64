package wire

import (
	"encoding/binary"
	"fmt"
)

// SessionIDSize is the length of a session's id in bytes.
const SessionIDSize = 32

// SessionID names a session at its exit. Whoever knows it may attach the
// session to a circuit, so it is secret and hides itself from every fmt verb.
type SessionID [SessionIDSize]byte

// Format shows nothing.
func (SessionID) Format(s fmt.State, _ rune) { _, _ = s.Write([]byte("(session)")) }

// SessionControlType is the first byte of a session control message,
// docs/protocol.md section 6.1.
type SessionControlType uint8

// The session control messages.
const (
	SessionAttach   SessionControlType = 1
	SessionAttached SessionControlType = 2
	SessionRefused  SessionControlType = 3
	SessionAck      SessionControlType = 4
	SessionPing     SessionControlType = 5
	SessionPong     SessionControlType = 6
	SessionEnd      SessionControlType = 7
)

var sessionControlNames = [...]string{"", "attach", "attached", "refused", "ack", "ping", "pong", "end"}

// String gives the message's name in lower case.
func (t SessionControlType) String() string {
	if t >= SessionAttach && t <= SessionEnd {
		return sessionControlNames[t]
	}
	return fmt.Sprintf("session control %d", uint8(t))
}

// Refusal says why an exit did not attach a session.
type Refusal uint8

// The reasons of REFUSED.
const (
	RefusalUnknown Refusal = 1 // no such session (any more)
	RefusalBusy    Refusal = 2 // no room for another session
)

// Number is a session packet's, which count from 0 in each direction, or a token
// of PING and PONG.
type Number = uint64

// SessionControl is one session control message. Which fields count depends on
// Type; the others are zero.
type SessionControl struct {
	Type    SessionControlType
	Resume  bool      // attach
	Refusal Refusal   // refused
	ID      SessionID // attach
	Number  Number    // attach, attached, ack: next expected; ping, pong: token
}

// MaxSessionControl is the size of the longest session control message.
const MaxSessionControl = 1 + 1 + SessionIDSize + 8

const attachResume = 1

// ParseSessionControl reads a session control message (a payload after its
// first byte). It allocates only for errors.
func ParseSessionControl(b []byte) (m SessionControl, err error) {
	if len(b) == 0 {
		return m, fmt.Errorf("session control: %w", errShort)
	}
	m.Type = SessionControlType(b[0])
	rest := b[1:]
	want := 8
	switch m.Type {
	case SessionAttach:
		want = MaxSessionControl - 1
	case SessionRefused:
		want = 1
	case SessionEnd:
		want = 0
	case SessionAttached, SessionAck, SessionPing, SessionPong:
	default:
		return SessionControl{}, fmt.Errorf("session control: %w", errUnknown)
	}
	switch {
	case len(rest) < want:
		err = errShort
	case len(rest) > want:
		err = errTrail
	default:
		err = m.parse(rest)
	}
	if err != nil {
		return SessionControl{}, fmt.Errorf("session %v: %w", SessionControlType(b[0]), err)
	}
	return m, nil
}

func (m *SessionControl) parse(b []byte) error {
	switch m.Type {
	case SessionEnd:
	case SessionRefused:
		if m.Refusal = Refusal(b[0]); m.Refusal != RefusalUnknown && m.Refusal != RefusalBusy {
			return errRange
		}
	case SessionAttach:
		if b[0]&^attachResume != 0 {
			return errNonZero
		}
		m.Resume = b[0] == attachResume
		copy(m.ID[:], b[1:])
		m.Number = binary.BigEndian.Uint64(b[1+SessionIDSize:])
		if !m.Resume && m.Number != 0 {
			return errNonZero
		}
	case SessionAttached, SessionAck, SessionPing, SessionPong:
		m.Number = binary.BigEndian.Uint64(b)
	}
	return nil
}

// Append appends the message, at most MaxSessionControl bytes. A message that
// ParseSessionControl would refuse is a broken invariant of the caller's.
func (m SessionControl) Append(b []byte) []byte {
	b = append(b, byte(m.Type))
	switch m.Type {
	case SessionAttach:
		flags := byte(0)
		if m.Resume {
			flags = attachResume
		}
		b = append(append(b, flags), m.ID[:]...)
		return binary.BigEndian.AppendUint64(b, m.Number)
	case SessionRefused:
		return append(b, byte(m.Refusal))
	case SessionEnd:
		return b
	case SessionAttached, SessionAck, SessionPing, SessionPong:
		return binary.BigEndian.AppendUint64(b, m.Number)
	}
	panic("wire: append " + m.Type.String())
}
