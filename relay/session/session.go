// Package session carries streams, UDP flows and DNS messages between a client
// and the last hop of its circuit (docs/protocol.md section 6), and outlives the
// circuit: when it ends, the session goes on over another to the same exit.
//
// A Client opens streams; an Exit knows the sessions of all its clients and serves
// their streams through an Opener that owns the real sockets (relay/exit). A
// session sits on a Carrier at a time, which is a circuit's end and moves packets
// of at most wire.SessionPacketSize bytes in order. Packets come in through a
// Handler, called by the goroutine that reads the link: it never blocks, never
// sends and never keeps the bytes; what must be answered is marked and sent by the
// session's own goroutines.
//
//	Stream.Write -> turn -> DATA frames in kept packets -> Carrier.SendAll (caller's goroutine)
//	Handler -> chunks of the stream -> Stream.Read                  (caller's goroutine)
//	Read -> credit used up by a quarter -> control loop -> WINDOW
//	Flow.Write -> bounded queue -> datagram loop -> Carrier.Send    (drops the oldest)
//	Handler -> pump -> ACK, PONG; on a new carrier ATTACH, ATTACHED, what was not acknowledged
//
// It refuses to buffer more than it granted (a peer that overruns a window ends
// the session), to keep more sent packets than its window, to answer without
// bound, and to print destinations. It does not choose circuits: whoever owns them
// gives it one and is asked for another when it ends.
//
// Locks: mux.mu guards the table of streams, control.mu the list of those with
// something to say, and each Stream and Flow has one mutex for its own state.
// turns.mu guards the row of streams that send, and is held together with no other;
// trunk.sending puts sequenced packets in a row and is the only mutex held while a
// carrier is backed up; trunk.receiving puts arrivals in a row and is held while
// frames are dealt out, so it comes before all of the above; trunk.mu guards what
// is kept and is held together with no stream's. Budget.mu guards a list of
// sessions and is held together with no other. A stream's mutex may be held when
// control.mu is taken; mux.mu is never held together with a stream's. Exit.mu
// guards the list of sessions: no other but trunk.mu is taken while it is held, and
// those of an Opener by Guest.Move.
package session

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"

	"cuttle/relay/wire"
)

// Carrier moves payloads, in order within a class. The client's circuit and the
// exit's end of a circuit are carriers.
type Carrier interface {
	// Send copies packet (1 to wire.SessionPacketSize bytes) and queues it as a
	// payload of that kind (wire.PayloadSession or wire.PayloadAttach). It blocks
	// while the circuit is backed up and fails once it is closed. It may be called
	// by many goroutines.
	Send(kind byte, class wire.Class, packet []byte) error
	// SendAll is Send for packets that follow each other.
	SendAll(kind byte, class wire.Class, packets [][]byte) error
	// Close ends the circuit; calls of Send that block return.
	Close()
	// Done is closed when the circuit has ended.
	Done() <-chan struct{}
}

// Handler takes the payloads of a carrier. It is called by the link's reader: it
// does not block or keep p. After an error the carrier must be closed.
type Handler = func(kind byte, class wire.Class, p []byte) error

// Conn is a TCP connection of the exit. Errors of its methods carry an *Error
// where the cause has a code; every other error counts as reset by the far end.
// If it implements io.WriterTo, that is used to read from it. A write or CloseWrite gives
// syscall.EPIPE, wrapped, when the far end takes nothing more and reading tells how it
// has ended: with io.EOF behind what it has sent, or with an error.
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
	// OpenUDP gives a socket for dst: one Read or Write is one datagram. If it
	// implements Packets, other peers can be reached and heard through it.
	OpenUDP(ctx context.Context, dst netip.AddrPort) (net.Conn, error)
	// OpenEcho gives a socket for ICMP echo: one Read or Write is wire.EchoHead
	// bytes and data, docs/protocol.md section 6.3.
	OpenEcho(ctx context.Context, dst netip.Addr) (net.Conn, error)
	// Resolve answers one DNS message (RFC 1035 section 4). An error ends the
	// DNS stream; a resolver's failure is not one, but an answer that says so.
	Resolve(ctx context.Context, query []byte) ([]byte, error)
}

// Guest is an Opener that counts for the neighbor that its session comes over.
type Guest interface {
	Move(to wire.NodeID) // the session comes over another one now; does not block
	Leave()              // it has ended, and every call of the Opener has returned
}

// Packets is a UDP socket of the exit that speaks to any number of peers of one
// family. One goroutine sends, another receives.
type Packets interface {
	// Send sends one datagram. One that may not or cannot be sent is lost; an
	// error ends the flow.
	Send(p []byte, to netip.AddrPort) error
	// Receive calls take with each datagram that arrives, its sender, and whether
	// something was sent to that one, until take or the socket fails; take does
	// not keep p.
	Receive(take func(p []byte, from netip.AddrPort, asked bool) error) error
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
	errPeer     = errors.New("the flow has no such peer")
	errStale    = errors.New("the session has moved to another carrier")
)

// Config bounds a session. Zero fields get the defaults named at each.
type Config struct {
	MaxWindow int     // bytes a stream's receive window may grow to; 16 MiB, at least wire.StreamWindow
	Budget    int     // bytes received, and of datagrams to be sent, of all streams and flows together; 64 MiB
	Shared    *Budget // with other sessions, besides Budget; nil: none
	Streams   int     // streams and flows at a time; 1024
	Opens     int     // streams whose destination is being connected (exit); 128
	Queries   int     // DNS queries at a time; 64

	Window   int           // bytes of packets kept until they are acknowledged; 16 MiB, at least wire.LeastWindow
	Kept     *Kept         // with other sessions of a client, besides Window; nil: none
	Resume   time.Duration // a session without a carrier ends after; 60 s
	Attaches int           // carriers that a client attaches to after the first, per hour; 30

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
	number(&c.Window, 16<<20)
	number(&c.Attaches, 30)
	duration := func(v *time.Duration, otherwise time.Duration) {
		if *v <= 0 {
			*v = otherwise
		}
	}
	duration(&c.Resume, time.Minute)
	duration(&c.Linger, 30*time.Second)
	duration(&c.IdleReplied, 2*time.Minute)
	duration(&c.IdleUnreplied, 30*time.Second)
	return c
}

// hiddenAddr stands where net.Conn wants an address: destinations are not shown.
type hiddenAddr struct{}

func (hiddenAddr) Network() string { return "cuttle" }
func (hiddenAddr) String() string  { return "(hidden)" }
