package stack

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/netip"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	netstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// copySize is the size of the buffers between an endpoint and a Conn, in bytes:
// one super-packet.
const copySize = 64 << 10

var copyBuffers = sync.Pool{New: func() any { return new([copySize]byte) }}

// Keepalive of programs' connections: on a LAN the other host may have gone.
const (
	keepaliveIdle     = 2 * time.Minute
	keepaliveInterval = 30 * time.Second
)

// synTable keeps the first bytes of SYNs whose handshake is under way, to be
// quoted when an ICMP error must refuse them: programs' kernels check the
// sequence number in it. Its mutex guards headers.
type synTable struct {
	mu      sync.Mutex
	headers map[netstack.TransportEndpointID][]byte
}

// note remembers pkt if it opens a connection: fresh says that it did so now.
// Full says that there is no room and the packet has to be dropped.
func (t *synTable) note(id netstack.TransportEndpointID, pkt *netstack.PacketBuffer) (fresh, full bool) {
	h := header.TCP(pkt.TransportHeader().Slice())
	if len(h) < header.TCPMinimumSize || h.Flags()&(header.TCPFlagSyn|header.TCPFlagAck) != header.TCPFlagSyn {
		return false, false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.headers[id]; ok {
		return false, false // sent again; gVisor's forwarder ignores it
	}
	if len(t.headers) >= maxHandshakes {
		return false, true
	}
	if t.headers == nil {
		t.headers = make(map[netstack.TransportEndpointID][]byte)
	}
	network := pkt.NetworkHeader().Slice()
	t.headers[id] = append(append(make([]byte, 0, len(network)+len(h)), network...), h...)
	return true, false
}

// get returns what note has remembered.
func (t *synTable) get(id netstack.TransportEndpointID) []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.headers[id]
}

// drop forgets id. It is called once the forwarder has forgotten it too.
func (t *synTable) drop(id netstack.TransportEndpointID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.headers, id)
}

// accept is called by gVisor's forwarder, in a goroutine of its own, for each
// TCP connection that a program opens. It ends with the connection.
func (s *Stack) accept(r *tcp.ForwarderRequest) {
	id := r.ID()
	if !s.enter() {
		s.complete(r, id, false)
		return
	}
	defer s.running.Done()
	f := flowOf(id)
	if s.tcpFlows.Add(1) > int64(s.cfg.MaxTCP) {
		s.tcpFlows.Add(-1)
		s.complete(r, id, true)
		return
	}
	defer s.tcpFlows.Add(-1)
	if f.Dst().Port() == dnsPort {
		if e := s.handshake(r, id); e != nil {
			s.serveDNS(f, e)
		}
		return
	}
	ctx, cancel := context.WithTimeout(s.ctx, dialTimeout)
	conn, err := s.cfg.Dialer.DialTCP(ctx, f)
	cancel()
	if err != nil {
		s.refuse(r, id, err)
		return
	}
	defer conn.Close() //nolint:errcheck // nothing is left to be done about it
	e := s.handshake(r, id)
	if e == nil {
		_ = conn.Reset() // the program has gone meanwhile
		return
	}
	splice(s.ctx, e, conn)
}

// refuse answers a connection attempt that failed with err.
func (s *Stack) refuse(r *tcp.ForwarderRequest, id netstack.TransportEndpointID, err error) {
	syn := s.syns.get(id)
	what, ok := problemOf(err)
	if !ok || what == portUnreachable || syn == nil {
		s.complete(r, id, true)
		return
	}
	s.link.reply(icmpError(what, syn, 0))
	s.complete(r, id, false)
}

// complete ends a connection attempt, with an RST if reset says so. The request
// must not be touched afterwards.
func (s *Stack) complete(r *tcp.ForwarderRequest, id netstack.TransportEndpointID, reset bool) {
	r.Complete(reset)
	s.syns.drop(id)
}

// problemOf gives the ICMP error for an error of a Dialer, and false if there
// is none that fits.
func problemOf(err error) (problem, bool) {
	switch {
	case errors.Is(err, ErrRefused):
		return portUnreachable, true
	case errors.Is(err, ErrNetUnreachable):
		return netUnreachable, true
	case errors.Is(err, ErrProhibited):
		return prohibited, true
	case errors.Is(err, ErrHostUnreachable), errors.Is(err, ErrTimeout), errors.Is(err, context.DeadlineExceeded):
		return hostUnreachable, true
	}
	return hostUnreachable, false
}

// handshake finishes the program's handshake. Nil means that the program gave
// up or the stack is stopping.
func (s *Stack) handshake(r *tcp.ForwarderRequest, id netstack.TransportEndpointID) *endpoint {
	e := &endpoint{}
	ep, err := r.CreateEndpoint(&e.queue)
	s.complete(r, id, err != nil)
	if err != nil {
		return nil
	}
	e.ep = ep
	ep.SocketOptions().SetDelayOption(false)
	ep.SocketOptions().SetKeepAlive(true)
	idle, interval := tcpip.KeepaliveIdleOption(keepaliveIdle), tcpip.KeepaliveIntervalOption(keepaliveInterval)
	if ep.SetSockOpt(&idle) != nil || ep.SetSockOpt(&interval) != nil || s.ctx.Err() != nil {
		e.abort()
		return nil
	}
	return e
}

func flowOf(id netstack.TransportEndpointID) Flow {
	return NewFlow(addrPort(id.RemoteAddress, id.RemotePort), addrPort(id.LocalAddress, id.LocalPort))
}

func addrPort(a tcpip.Address, port uint16) netip.AddrPort {
	addr, _ := netip.AddrFromSlice(a.AsSlice())
	return netip.AddrPortFrom(addr, port)
}

// errReset says that the program reset its connection.
var errReset = errors.New("connection reset")

// endpoint is the program's side of a connection: gVisor's endpoint with calls
// that wait. One goroutine reads, one writes, any aborts.
type endpoint struct {
	ep    tcpip.Endpoint
	queue waiter.Queue
	once  sync.Once
}

// Read waits for data. The end of the program's data is io.EOF.
func (e *endpoint) Read(p []byte) (int, error) {
	w := tcpip.SliceWriter(p)
	n, err := e.wait(waiter.ReadableEvents, func() (int, tcpip.Error) {
		r, err := e.ep.Read(&w, tcpip.ReadOptions{})
		return r.Count, err
	})
	if n > 0 {
		if t, ok := e.ep.(interface{ ModerateRecvBuf(copied int) }); ok {
			t.ModerateRecvBuf(n)
		}
	}
	return n, err
}

// Write writes all of p.
func (e *endpoint) Write(p []byte) (int, error) {
	var r bytes.Reader
	r.Reset(p)
	done := 0
	for done < len(p) {
		n, err := e.wait(waiter.WritableEvents, func() (int, tcpip.Error) {
			n, err := e.ep.Write(&r, tcpip.WriteOptions{})
			return int(n), err
		})
		done += n
		if err != nil {
			return done, err
		}
		if r.Len() != len(p)-done { // gVisor took more from the reader than it had room for
			r.Reset(p[done:])
		}
	}
	return done, nil
}

// wait repeats try until it does not ask to wait.
func (e *endpoint) wait(events waiter.EventMask, try func() (int, tcpip.Error)) (int, error) {
	n, err := try()
	if _, again := err.(*tcpip.ErrWouldBlock); again {
		entry, notify := waiter.NewChannelEntry(events | waiter.EventHUp | waiter.EventErr)
		e.queue.EventRegister(&entry)
		defer e.queue.EventUnregister(&entry)
		for {
			n, err = try()
			if _, again := err.(*tcpip.ErrWouldBlock); !again {
				break
			}
			<-notify // aborting notifies
		}
	}
	switch err.(type) {
	case nil:
		return n, nil
	case *tcpip.ErrClosedForReceive:
		return n, io.EOF
	}
	return n, errReset
}

// closeWrite sends the end of data after all that was written.
func (e *endpoint) closeWrite() { _ = e.ep.Shutdown(tcpip.ShutdownWrite) }

// close releases the endpoint; data that was written is still delivered.
func (e *endpoint) close() { e.once.Do(e.ep.Close) }

// abort resets the connection and releases the endpoint.
func (e *endpoint) abort() {
	e.once.Do(func() {
		e.ep.Abort()
		e.ep.Close()
	})
}

// splice copies between the program and conn until both directions have ended
// or one broke, and releases the endpoint. An end of data goes on as an end of
// data, a break in either as a reset in the other.
func splice(ctx context.Context, e *endpoint, conn Conn) {
	broken := make(chan struct{}, 1)
	entry := waiter.NewFunctionEntry(waiter.EventErr|waiter.EventHUp, func(waiter.EventMask) {
		if tcp.EndpointState(e.ep.State()) == tcp.StateError {
			select {
			case broken <- struct{}{}:
			default:
			}
		}
	})
	e.queue.EventRegister(&entry)
	defer e.queue.EventUnregister(&entry)

	ended := make(chan error, 2)
	go func() { ended <- pump(conn, e, conn.CloseWrite) }()                             // ends with the program's data or abort
	go func() { ended <- pump(e, conn, func() error { e.closeWrite(); return nil }) }() // ends with the far end's data or Reset
	left, failed := 2, false
	for left > 0 && !failed {
		select {
		case err := <-ended:
			left--
			failed = err != nil
		case <-broken:
			failed = true
		case <-ctx.Done():
			failed = true
		}
	}
	if failed {
		e.abort()
		_ = conn.Reset()
	}
	for ; left > 0; left-- {
		<-ended //nolint:errcheck // told already
	}
	e.close()
}

// waitSize is the size of the buffer with which a flow waits for data, in bytes:
// most flows are idle most of the time.
const waitSize = 2 << 10

// pump copies from src to dst until src ends, then says so to dst. It takes a
// large buffer while what comes fills the small one.
func pump(dst io.Writer, src io.Reader, end func() error) error {
	small := make([]byte, waitSize)
	buf := small
	var large *[copySize]byte
	defer func() {
		if large != nil {
			copyBuffers.Put(large)
		}
	}()
	for {
		n, err := src.Read(buf)
		if n > 0 {
			if _, werr := dst.Write(buf[:n]); werr != nil {
				return werr
			}
		}
		switch {
		case large == nil && n == waitSize:
			large = copyBuffers.Get().(*[copySize]byte)
			buf = large[:]
		case large != nil && n < waitSize:
			copyBuffers.Put(large)
			large, buf = nil, small
		}
		if errors.Is(err, io.EOF) {
			return end()
		}
		if err != nil {
			return err
		}
	}
}
