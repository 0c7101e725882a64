package stack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
)

// Flow is who talks to whom: the program's address and the destination, as the
// program sees them. It hides both from every way of printing, logging and
// encoding, since destinations must never reach a log; only Src and Dst reveal
// them. (The addresses live in a closure: a method such as LogValue alone is
// not asked when a Flow is an unexported field of something printed.)
type Flow struct {
	reveal func() (src, dst netip.AddrPort)
}

// NewFlow returns the flow from src to dst.
func NewFlow(src, dst netip.AddrPort) Flow {
	return Flow{reveal: func() (netip.AddrPort, netip.AddrPort) { return src, dst }}
}

// Src is the program's address.
func (f Flow) Src() netip.AddrPort {
	if f.reveal == nil {
		return netip.AddrPort{}
	}
	src, _ := f.reveal()
	return src
}

// Dst is the destination's address; for DNS the server that the program asked.
func (f Flow) Dst() netip.AddrPort {
	if f.reveal == nil {
		return netip.AddrPort{}
	}
	_, dst := f.reveal()
	return dst
}

const hidden = "flow(hidden)"

// String hides the addresses.
func (f Flow) String() string { return hidden }

// GoString hides the addresses.
func (f Flow) GoString() string { return hidden }

// Format hides the addresses from every verb.
func (f Flow) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, hidden) }

// LogValue hides the addresses from slog.
func (f Flow) LogValue() slog.Value { return slog.StringValue(hidden) }

// MarshalText hides the addresses from encoders.
func (f Flow) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// Errors that a Dialer returns (found with errors.Is) and what the program
// sees. Any other error is a reset for TCP and silence for UDP.
var (
	ErrRefused         = errors.New("connection refused")           // TCP RST; ICMP port unreachable: ECONNREFUSED
	ErrHostUnreachable = errors.New("host unreachable")             // ICMP host unreachable: EHOSTUNREACH
	ErrNetUnreachable  = errors.New("network unreachable")          // ICMP network unreachable: ENETUNREACH
	ErrProhibited      = errors.New("prohibited by policy")         // ICMP administratively prohibited: EHOSTUNREACH (IPv4), EACCES (IPv6)
	ErrTimeout         = errors.New("connection attempt timed out") // ICMP host unreachable: EHOSTUNREACH
)

// Conn is one TCP connection beyond the stack.
//
// Read returns io.EOF after the far end's orderly end and any other error when
// the connection broke, which the program then sees as a reset. Reset and Close
// make Read and Write, also those under way, return. One goroutine reads, one
// writes, any may reset or close.
type Conn interface {
	io.ReadWriter
	CloseWrite() error // the program has sent its last byte; reading goes on
	Reset() error      // break the connection: the far end sees a reset
	Close() error      // release it; called exactly once, last
}

// PacketConn is one UDP flow beyond the stack: Read and Write move one datagram
// each and keep no reference to the buffer. An error of Read ends the flow. One that
// implements io.WriterTo is asked for that instead of Read, one Write a datagram, so
// that a flow of which nothing comes needs no buffer.
type PacketConn interface {
	io.ReadWriter
	Close() error // makes Read and Write return; called exactly once
}

// Peers is a PacketConn of UDP for all that a program's socket says to and hears
// from public addresses of one family, docs/protocol.md section 6.4.
type Peers interface {
	PacketConn
	// Send is Write to any peer. One that may not be reached gets nothing.
	Send(p []byte, to netip.AddrPort) error
	// Each calls take with each datagram and its sender until take or the flow
	// fails; take does not keep p.
	Each(take func(p []byte, from netip.AddrPort) error) error
}

// Dialer carries flows onward. The relay client is one; tests have one over
// real sockets. Its methods are called by many goroutines, return soon after
// ctx ends, and return one of the errors above where one fits.
type Dialer interface {
	// DialTCP returns once the destination has accepted the connection: the
	// program's handshake completes only then.
	DialTCP(ctx context.Context, f Flow) (Conn, error)

	// DialUDP returns a flow of datagrams to f.Dst. If it is Peers, the stack
	// has it carry what the program's socket says to other public addresses,
	// too, when Config.Peers says so.
	DialUDP(ctx context.Context, f Flow) (PacketConn, error)

	// DialEcho returns a flow of ICMP echo to f.Dst, which has no port. Each
	// datagram is u8 status || u16 sequence || data. Written, it is a request of
	// status 0; read, a reply of status 0 to the request with that sequence, or
	// what became of it: 2 host unreachable, 3 network unreachable, 5 prohibited,
	// 9 time exceeded, without data.
	DialEcho(ctx context.Context, f Flow) (PacketConn, error)

	// Resolve answers one DNS message (RFC 1035 section 4), whatever server
	// f.Dst the program asked. It must not keep query.
	Resolve(ctx context.Context, f Flow, query []byte) ([]byte, error)
}
