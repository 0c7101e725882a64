package stack

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	netstack "gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	udpQueue    = 64         // datagrams of a flow that wait for its PacketConn; more are dropped
	maxDatagram = 65535 - 28 // bytes of payload
	keepBuffer  = 4 << 10    // larger buffers of datagrams are not pooled
	udpTTL      = 64
	maxAsked    = 1024        // peers of a flow that are remembered; then it starts anew
	udpLate     = time.Second // a datagram that has waited longer for its PacketConn is dropped: programs have asked again by then
)

// datagram is the payload of one datagram on its way to a PacketConn.
type datagram struct {
	dst netip.AddrPort
	b   []byte
	at  time.Duration // since when it waits, after the table's start
}

var datagrams = sync.Pool{New: func() any { return &datagram{b: make([]byte, 0, 2048)} }}

func (d *datagram) release() {
	if cap(d.b) <= keepBuffer {
		d.b = d.b[:0]
		datagrams.Put(d)
	}
}

// payloadOf copies the payload of the UDP packet pkt.
func payloadOf(pkt *netstack.PacketBuffer) *datagram {
	d := datagrams.Get().(*datagram)
	size := pkt.Data().Size()
	if h := header.UDP(pkt.TransportHeader().Slice()); len(h) >= header.UDPMinimumSize {
		size = min(size, max(0, int(h.Length())-header.UDPMinimumSize)) // the rest is padding
	}
	if cap(d.b) < size {
		d.b = make([]byte, 0, size)
	}
	d.b = d.b[:size]
	w := tcpip.SliceWriter(d.b)
	_, _ = pkt.Data().ReadTo(&w, true) // fails only at the end of d.b, which is what we want
	return d
}

// udpKey names a UDP flow; without dst it is the one for all public addresses.
type udpKey struct{ src, dst netip.AddrPort }

// public tells whether an address is one host's, anywhere on the Internet.
func public(a netip.Addr) bool {
	return a.IsGlobalUnicast() && !a.IsPrivate() && (a.Is4() || global6.Contains(a)) &&
		!slices.ContainsFunc(notPublic, func(p netip.Prefix) bool { return p.Contains(a) })
}

var (
	global6   = netip.MustParsePrefix("2000::/3")
	notPublic = []netip.Prefix{ // this network, shared (carriers' NAT, overlay networks), reserved
		netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("240.0.0.0/4"),
	}
)

// udpFlow is one UDP flow. Its goroutines are serveUDP and one reader of the
// PacketConn.
type udpFlow struct {
	key    udpKey
	first  netip.AddrPort // whom its first datagram was for
	queue  chan *datagram
	ctx    context.Context //nolint:containedctx // the flow's life
	cancel context.CancelFunc

	used    atomic.Int64 // when the program last spoke or somebody it has asked did, in nanoseconds since the table's start
	replied atomic.Bool  // by somebody it has asked

	mu    sync.Mutex // guards asked
	asked map[netip.AddrPort]struct{}
}

// ask notes that the program speaks to a peer.
func (f *udpFlow) ask(peer netip.AddrPort) {
	if peer == f.first {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.asked == nil || len(f.asked) >= maxAsked {
		f.asked = make(map[netip.AddrPort]struct{})
	}
	f.asked[peer] = struct{}{}
}

// expects tells whether the program has spoken to a peer. Strangers are heard, but
// must not keep a flow open (RFC 4787 REQ-6).
func (f *udpFlow) expects(peer netip.AddrPort) bool {
	if peer == f.first {
		return true
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	_, ok := f.asked[peer]
	return ok
}

// udpTable holds the UDP flows there are. Its mutex guards its maps.
type udpTable struct {
	max, maxSource int
	start          time.Time

	mu      sync.Mutex
	flows   map[udpKey]*udpFlow
	sources map[netip.Addr]int
}

func newUDPTable(max, maxSource int) *udpTable {
	return &udpTable{max: max, maxSource: maxSource, start: time.Now(),
		flows: make(map[udpKey]*udpFlow), sources: make(map[netip.Addr]int)}
}

func (t *udpTable) len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.flows)
}

func (t *udpTable) touch(f *udpFlow) { f.used.Store(int64(t.now())) }

func (t *udpTable) now() time.Duration { return time.Since(t.start) }

// get returns the flow called key, making it if there is none: fresh tells
// which. A full table, or source, loses its longest idle flow.
func (t *udpTable) get(ctx context.Context, key udpKey, first netip.AddrPort) (f *udpFlow, fresh bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if f = t.flows[key]; f != nil {
		t.touch(f)
		return f, false
	}
	if t.sources[key.src.Addr()] >= t.maxSource {
		t.evict(func(k udpKey) bool { return k.src.Addr() == key.src.Addr() })
	}
	if len(t.flows) >= t.max {
		t.evict(func(udpKey) bool { return true })
	}
	f = &udpFlow{key: key, first: first, queue: make(chan *datagram, udpQueue)}
	f.ctx, f.cancel = context.WithCancel(ctx)
	t.touch(f)
	t.flows[key] = f
	t.sources[key.src.Addr()]++
	return f, true
}

// evict ends the longest idle flow among those that may go. The caller holds mu.
func (t *udpTable) evict(may func(udpKey) bool) {
	var oldest *udpFlow
	for key, f := range t.flows {
		if may(key) && (oldest == nil || f.used.Load() < oldest.used.Load()) {
			oldest = f
		}
	}
	if oldest != nil {
		t.forget(oldest)
	}
}

// remove ends f.
func (t *udpTable) remove(f *udpFlow) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forget(f)
}

// forget takes f off the maps, if it is still there, and ends it. The caller
// holds mu.
func (t *udpTable) forget(f *udpFlow) {
	f.cancel()
	if t.flows[f.key] != f {
		return
	}
	delete(t.flows, f.key)
	source := f.key.src.Addr()
	if t.sources[source]--; t.sources[source] == 0 {
		delete(t.sources, source)
	}
}

// watch ends f once it has been idle for too long. It returns when f has ended.
func (t *udpTable) watch(f *udpFlow) {
	timer := time.NewTimer(udpUnreplied)
	defer timer.Stop()
	for {
		select {
		case <-f.ctx.Done():
			return
		case <-timer.C:
		}
		limit := udpUnreplied
		if f.replied.Load() {
			limit = udpIdle
		}
		left := limit - (time.Since(t.start) - time.Duration(f.used.Load()))
		if left <= 0 {
			t.remove(f)
			return
		}
		timer.Reset(left)
	}
}

// datagram is called by gVisor, in the link's reader, for each UDP datagram of
// a program. It never waits.
func (s *Stack) datagram(id netstack.TransportEndpointID, pkt *netstack.PacketBuffer) bool {
	key := udpKey{src: addrPort(id.RemoteAddress, id.RemotePort), dst: addrPort(id.LocalAddress, id.LocalPort)}
	d := payloadOf(pkt)
	if key.dst.Port() == dnsPort {
		s.question(NewFlow(key.src, key.dst), d)
		return true
	}
	d.dst = key.dst
	if s.cfg.Peers && public(key.dst.Addr()) {
		key.dst = netip.AddrPort{}
	}
	f, fresh := s.udp.get(s.ctx, key, d.dst)
	f.ask(d.dst)
	if fresh {
		if !s.enter() {
			s.udp.remove(f)
			d.release()
			return true
		}
		go func() { // ends when f does: idle, evicted, broken or stopped
			defer s.running.Done()
			s.serveUDP(f)
		}()
	}
	d.at = time.Duration(f.used.Load()) // get has just touched it
	select {
	case f.queue <- d:
	default:
		d.release()
		s.link.dropped.Add(1)
	}
	return true
}

// serveUDP dials for f and carries its datagrams until it ends.
func (s *Stack) serveUDP(f *udpFlow) {
	defer s.udp.remove(f)
	flow := NewFlow(f.key.src, f.first)
	ctx, cancel := context.WithTimeout(f.ctx, dialTimeout)
	conn, err := s.cfg.Dialer.DialUDP(ctx, flow)
	cancel()
	if err != nil {
		s.refuseUDP(f, flow, err)
		return
	}
	var inner sync.WaitGroup
	inner.Go(func() { s.udp.watch(f) })           // ends with f
	inner.Go(func() { s.answers(f, flow, conn) }) // ends when conn is closed
	s.questions(f, flow, conn)
	s.udp.remove(f)
	_ = conn.Close()
	inner.Wait()
}

// questions writes what the program sends to conn.
func (s *Stack) questions(f *udpFlow, flow Flow, conn PacketConn) {
	for {
		select {
		case <-f.ctx.Done():
			return
		case d := <-f.queue:
			if s.udp.now()-d.at > udpLate {
				d.release()
				s.link.dropped.Add(1)
				continue
			}
			var err error
			if peers, ok := conn.(Peers); ok {
				err = peers.Send(d.b, d.dst)
			} else {
				_, err = conn.Write(d.b)
			}
			d.release()
			if err != nil {
				s.refuseUDP(f, flow, err)
				return
			}
		}
	}
}

// answers sends what conn reads to the program.
func (s *Stack) answers(f *udpFlow, flow Flow, conn PacketConn) {
	defer f.cancel()
	out := &program{s: s, f: f}
	defer out.way.release()
	if peers, ok := conn.(Peers); ok {
		s.refuseUDP(f, flow, peers.Each(out.from))
		return
	}
	if from, ok := conn.(io.WriterTo); ok {
		_, err := from.WriteTo(out)
		s.refuseUDP(f, flow, err)
		return
	}
	buf := copyBuffers.Get().(*[copySize]byte)
	defer copyBuffers.Put(buf)
	for {
		n, err := conn.Read(buf[:])
		if err != nil {
			s.refuseUDP(f, flow, err)
			return
		}
		if err := out.from(buf[:n], f.first); err != nil {
			return
		}
	}
}

// hears tells whether the program may see a datagram of a peer: whoever carries the
// flow must not play a host of this machine's networks, or a name server.
func (f *udpFlow) hears(from netip.AddrPort) bool {
	if f.key.dst.IsValid() || from == f.first {
		return from == f.first
	}
	return public(from.Addr()) && from.Addr().Is4() == f.first.Addr().Is4() && from.Port() != 0 && from.Port() != dnsPort
}

var errNoWay = errors.New("no route to the program")

// way is gVisor's route back to a program, from the peer that spoke last.
type way struct {
	peer  netip.Addr
	route *netstack.Route
}

func (w *way) from(s *Stack, f Flow) (*netstack.Route, bool) {
	if w.route != nil && w.peer == f.Dst().Addr() {
		return w.route, true
	}
	w.release()
	r, err := s.routeBack(f)
	if err != nil {
		return nil, false
	}
	w.route, w.peer = r, f.Dst().Addr()
	return r, true
}

func (w *way) release() {
	if w.route != nil {
		w.route.Release()
		w.route = nil
	}
}

// program is the program of a flow: each Write sends it a datagram of the first peer.
type program struct {
	s   *Stack
	f   *udpFlow
	way way
}

func (p *program) Write(b []byte) (int, error) { return len(b), p.from(b, p.f.first) }

// from sends it a datagram of any peer.
func (p *program) from(b []byte, peer netip.AddrPort) error {
	if !p.f.hears(peer) {
		p.s.link.dropped.Add(1)
		return nil
	}
	flow := NewFlow(p.f.key.src, peer)
	r, ok := p.way.from(p.s, flow)
	if !ok {
		return errNoWay
	}
	if p.f.expects(peer) {
		p.f.replied.Store(true)
		p.s.udp.touch(p.f)
	}
	p.s.send(r, flow, b)
	return nil
}

// refuseUDP tells the program that its flow failed, unless it ended by our
// doing or for a reason that has no word in ICMP.
func (s *Stack) refuseUDP(f *udpFlow, flow Flow, err error) {
	if f.ctx.Err() != nil {
		return
	}
	if what, ok := problemOf(err); ok {
		s.link.reply(icmpError(what, quoteUDP(flow), 0))
	}
}

// routeBack finds gVisor's route from a flow's destination to the program.
func (s *Stack) routeBack(f Flow) (*netstack.Route, tcpip.Error) {
	proto := header.IPv4ProtocolNumber
	if f.Dst().Addr().Is6() {
		proto = header.IPv6ProtocolNumber
	}
	return s.net.FindRoute(nicID, tcpip.AddrFromSlice(f.Dst().Addr().AsSlice()), tcpip.AddrFromSlice(f.Src().Addr().AsSlice()), proto, false)
}

// send sends payload as a datagram from f's destination to the program,
// fragmented if it is larger than the device's MTU.
func (s *Stack) send(r *netstack.Route, f Flow, payload []byte) {
	if len(payload) > maxDatagram {
		return
	}
	pkt := netstack.NewPacketBuffer(netstack.PacketBufferOptions{
		ReserveHeaderBytes: header.UDPMinimumSize + int(r.MaxHeaderLength()),
		Payload:            buffer.MakeWithData(payload),
	})
	defer pkt.DecRef()
	size := uint16(header.UDPMinimumSize + len(payload))
	h := header.UDP(pkt.TransportHeader().Push(header.UDPMinimumSize))
	pkt.TransportProtocolNumber = header.UDPProtocolNumber
	h.Encode(&header.UDPFields{SrcPort: f.Dst().Port(), DstPort: f.Src().Port(), Length: size})
	sum := checksum.Checksum(payload, r.PseudoHeaderChecksum(header.UDPProtocolNumber, size))
	if sum = ^h.CalculateChecksum(sum); sum == 0 {
		sum = 0xffff // RFC 768: zero would mean that there is none
	}
	h.SetChecksum(sum)
	_ = r.WritePacket(netstack.NetworkHeaderParams{Protocol: header.UDPProtocolNumber, TTL: udpTTL}, pkt) // a loss is UDP's to bear
}
