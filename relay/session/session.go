// Package session carries streams, UDP flows and DNS messages between a client
// and the last hop of its circuit (docs/protocol.md section 6).
//
// A Client opens streams, a Server serves them through an Opener that owns the
// real sockets (relay/exit). Both sit on a Carrier, which is a circuit's end and
// moves packets of at most wire.SessionPacketSize bytes in order. Packets come
// in through Packet, called by the goroutine that reads the link: it never
// blocks, never sends and never keeps the bytes; what must be answered is
// marked at the stream and sent by the session's own goroutine.
//
//	Stream.Write -> DATA frames of a full packet -> Carrier.Send   (caller's goroutine)
//	Packet -> chunks of the stream -> Stream.Read                  (caller's goroutine)
//	Read -> credit used up by a quarter -> control loop -> WINDOW
//	Flow.Write -> bounded queue -> datagram loop -> Carrier.Send   (drops the oldest)
//
// It refuses to buffer more than it granted (a peer that overruns a window ends
// the session), to answer without bound, and to print destinations.
//
// Locks: mux.mu guards the table of streams, control.mu the list of those with
// something to say, and each Stream and Flow has one mutex for its own state.
// Budget.mu guards a list of sessions and is held together with no other.
// A stream's mutex may be held when control.mu is taken; mux.mu is never held
// together with a stream's. Carrier.Send is called with no mutex but the ones that
// put writers of one stream in a row.
package session

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"

	"cuttle/relay/wire"
)

// Carrier moves session packets, in order within a class. The client's circuit
// and the exit's end of a circuit are carriers.
type Carrier interface {
	// Send copies packet (1 to wire.SessionPacketSize bytes) and queues it. It
	// blocks while the circuit is backed up and fails once it is closed. It may be
	// called by many goroutines.
	Send(class wire.Class, packet []byte) error
	// Close ends the circuit; calls of Send that block return.
	Close()
	// Done is closed when the circuit has ended.
	Done() <-chan struct{}
}

// Conn is a TCP connection of the exit. Errors of its methods carry an *Error
// where the cause has a code; every other error counts as reset by the far end.
// If it implements io.WriterTo, that is used to read from it.
type Conn interface {
	net.Conn
	CloseWrite() error // ends the sending direction (FIN)
	Abort()            // ends both at once, with RST where there is one; may be called twice
}

// Opener owns the real sockets of an exit. Its errors carry an *Error that says
// which code the client gets. It is called by many goroutines at once; contexts
// end with the stream.
type Opener interface {
	OpenTCP(ctx context.Context, dst netip.AddrPort) (Conn, error)
	// OpenUDP gives a connected socket: one Read or Write is one datagram.
	OpenUDP(ctx context.Context, dst netip.AddrPort) (net.Conn, error)
	// Resolve answers one DNS message (RFC 1035 section 4). An error ends the
	// DNS stream; a resolver's failure is not one, but an answer that says so.
	Resolve(ctx context.Context, query []byte) ([]byte, error)
}

// Error ends a stream: what its RESET carries. It is the same on both sides.
type Error struct{ Code wire.Code }

// Error gives the code in words.
func (e *Error) Error() string { return "stream: " + e.Code.String() }

// Timeout tells, as net.Error asks, whether the far end did not answer in time.
func (e *Error) Timeout() bool { return e.Code == wire.CodeTimeout }

// Temporary is part of net.Error; a stream that has ended stays so.
func (e *Error) Temporary() bool { return false }

// CodeOf gives the code that err carries, or otherwise if it carries none.
func CodeOf(err error, otherwise wire.Code) wire.Code {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return wire.CodeTimeout
	}
	return otherwise
}

var (
	errProtocol = errors.New("protocol violation")
	errNumbers  = errors.New("stream numbers used up")
	errSize     = errors.New("datagram too large")
)

// Config bounds a session. Zero fields get the defaults named at each.
type Config struct {
	MaxWindow int     // bytes a stream's receive window may grow to; 16 MiB, at least wire.StreamWindow
	Budget    int     // bytes of receive buffers of all streams and flows together; 64 MiB
	Shared    *Budget // with other sessions, besides Budget; nil: none
	Streams   int     // streams and flows at a time; 1024
	Opens     int     // streams whose destination is being connected (exit); 128
	Queries   int     // DNS queries at a time; 64

	Linger        time.Duration // after Close, wait for the peer's FIN as long; 30 s
	IdleReplied   time.Duration // a UDP flow that has been answered ends when silent (exit); 2 min
	IdleUnreplied time.Duration // a UDP flow that has not (exit); 30 s
}

func (c Config) withDefaults() Config {
	number := func(v *int, otherwise int) {
		if *v <= 0 {
			*v = otherwise
		}
	}
	number(&c.MaxWindow, 16<<20)
	c.MaxWindow = max(c.MaxWindow, wire.StreamWindow)
	number(&c.Budget, 64<<20)
	number(&c.Streams, 1024)
	number(&c.Opens, 128)
	number(&c.Queries, 64)
	duration := func(v *time.Duration, otherwise time.Duration) {
		if *v <= 0 {
			*v = otherwise
		}
	}
	duration(&c.Linger, 30*time.Second)
	duration(&c.IdleReplied, 2*time.Minute)
	duration(&c.IdleUnreplied, 30*time.Second)
	return c
}

// hiddenAddr stands where net.Conn wants an address: destinations are not shown.
type hiddenAddr struct{}

func (hiddenAddr) Network() string { return "cuttle" }
func (hiddenAddr) String() string  { return "(hidden)" }
