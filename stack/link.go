package stack

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	netstack "gvisor.dev/gvisor/pkg/tcpip/stack"

	"cuttle/tun"
)

const (
	readBatch = 8            // packets taken from the device at once
	slotSize  = 64 << 10     // buffer of each, bytes; the largest that gVisor pools
	keepFrom  = slotSize / 2 // packets from this size go on in the buffer they were read into
	gsoMax    = tun.MaxPacket
)

// link is gVisor's end of the device. Inbound it is one goroutine (read) that
// checks packets, answers what the stack does not carry and delivers the rest;
// outbound, packets go to the device in the goroutine that made them, in the
// batches that gVisor makes, with no queue between. Where the device has
// offloads, super-packets cross in both directions as they are.
type link struct {
	device   tun.Device
	pathMTU  int
	offloads bool
	vectors  sync.Pool // *outbound

	echo func(packet []byte, s summary) // takes echo requests; keeps nothing of packet

	received, sent, dropped atomic.Uint64

	// mu guards the fields that gVisor sets.
	mu         sync.RWMutex
	mtu        uint32
	dispatcher netstack.NetworkDispatcher
	address    tcpip.LinkAddress
}

var (
	_ netstack.LinkEndpoint = (*link)(nil)
	_ netstack.GSOEndpoint  = (*link)(nil)
)

// outbound is what one call of WritePackets needs.
type outbound struct {
	vectors []tun.Vector
	pieces  [][]byte
}

func newLink(device tun.Device, mtu, pathMTU int) *link {
	l := &link{device: device, pathMTU: pathMTU, offloads: device.Offloads(), mtu: uint32(mtu)}
	l.vectors.New = func() any { return &outbound{} }
	return l
}

// read delivers packets until the device fails (an error) or is closed (nil).
func (l *link) read() error {
	views := make([]*buffer.View, readBatch)
	packets := make([]tun.Packet, readBatch)
	for i := range views {
		views[i] = buffer.NewViewSize(slotSize)
	}
	defer func() {
		for _, v := range views {
			v.Release()
		}
	}()
	for {
		for i := range views {
			packets[i].Data = views[i].AsSlice()
		}
		n, err := l.device.Read(packets)
		if errors.Is(err, tun.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read device: %w", err)
		}
		for i := range n {
			l.received.Add(1)
			if !l.admit(packets[i]) {
				continue
			}
			if size := len(packets[i].Data); size >= keepFrom {
				views[i].CapLength(size)
				l.deliver(views[i])
				views[i] = buffer.NewViewSize(slotSize)
			} else {
				l.deliver(buffer.NewViewWithData(packets[i].Data))
			}
		}
	}
}

// admit says whether p goes on to the netstack, and answers packets that it
// must not see.
func (l *link) admit(p tun.Packet) bool {
	s, ok := summarize(p.Data)
	if !ok {
		l.dropped.Add(1)
		return false
	}
	if s.dst.IsMulticast() || s.src.IsMulticast() || s.dst.IsUnspecified() || s.src.IsUnspecified() ||
		s.dst.IsLoopback() || s.dst == broadcast {
		l.dropped.Add(1)
		return false
	}
	switch s.proto {
	case protoTCP, protoUDP:
		if s.fragment || p.NeedsChecksum || p.Checked {
			break
		}
		if !verified(p.Data, s) {
			l.dropped.Add(1)
			return false
		}
	case protoICMP4, protoICMP6:
		if s.first && len(p.Data) >= s.payload+echoHeader && echoRequest(s.proto, p.Data[s.payload]) {
			l.echo(p.Data, s)
		}
		return false
	case protoNone:
		return false
	default:
		if s.first {
			l.reply(icmpError(prohibited, p.Data, 0))
		}
		return false
	}
	if s.proto == protoUDP && s.fixed && !s.fragment && len(p.Data) > l.pathMTU {
		l.reply(icmpError(tooBig, p.Data, l.pathMTU))
		return false
	}
	return true
}

func echoRequest(proto, kind byte) bool {
	return proto == protoICMP4 && kind == byte(header.ICMPv4Echo) || proto == protoICMP6 && kind == byte(header.ICMPv6EchoRequest)
}

// deliver hands one packet to gVisor and takes v over.
func (l *link) deliver(v *buffer.View) {
	proto := header.IPv4ProtocolNumber
	if v.AsSlice()[0]>>4 == 6 {
		proto = header.IPv6ProtocolNumber
	}
	pkt := netstack.NewPacketBuffer(netstack.PacketBufferOptions{Payload: buffer.MakeWithView(v)})
	defer pkt.DecRef()
	l.mu.RLock()
	d := l.dispatcher
	l.mu.RUnlock()
	if d != nil {
		d.DeliverNetworkPacket(proto, pkt)
	}
}

// reply sends a packet of our own making to the program.
func (l *link) reply(packet []byte) {
	n, err := l.device.Write([]tun.Vector{{Pieces: [][]byte{packet}}})
	if err != nil || n == 0 {
		l.dropped.Add(1)
		return
	}
	l.sent.Add(1)
}

// WritePackets implements netstack.LinkWriter. Packets that the device does not
// take are lost, as on any wire; transport protocols notice by themselves.
func (l *link) WritePackets(list netstack.PacketBufferList) (int, tcpip.Error) {
	packets := list.AsSlice()
	o := l.vectors.Get().(*outbound)
	defer func() {
		clear(o.pieces)
		clear(o.vectors)
		o.pieces, o.vectors = o.pieces[:0], o.vectors[:0]
		l.vectors.Put(o)
	}()
	for _, pkt := range packets {
		start := len(o.pieces)
		views, offset := pkt.AsViewList()
		for v := views.Front(); v != nil; v = v.Next() {
			b := v.AsSlice()
			if offset >= len(b) {
				offset -= len(b)
				continue
			}
			o.pieces = append(o.pieces, b[offset:])
			offset = 0
		}
		o.vectors = append(o.vectors, tun.Vector{Pieces: o.pieces[start:len(o.pieces):len(o.pieces)], Offload: offload(pkt)})
	}
	n, err := l.device.Write(o.vectors)
	l.sent.Add(uint64(n))
	l.dropped.Add(uint64(len(packets) - n))
	if errors.Is(err, tun.ErrClosed) {
		return n, &tcpip.ErrClosedForSend{}
	}
	return len(packets), nil
}

// offload translates what gVisor left undone in a packet.
func offload(pkt *netstack.PacketBuffer) tun.Offload {
	g := pkt.GSOOptions
	if g.Type != netstack.GSOTCPv4 && g.Type != netstack.GSOTCPv6 {
		return tun.Offload{}
	}
	o := tun.Offload{
		NeedsChecksum:  g.NeedsCsum,
		ChecksumStart:  g.L3HdrLen,
		ChecksumOffset: g.CsumOffset,
		HeaderLen:      uint16(pkt.HeaderSize()),
	}
	if pkt.Data().Size() > int(g.MSS) {
		o.SegmentSize = g.MSS
		o.Kind = tun.TCP4
		if g.Type == netstack.GSOTCPv6 {
			o.Kind = tun.TCP6
		}
	}
	return o
}

// MTU implements netstack.LinkEndpoint.
func (l *link) MTU() uint32 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.mtu
}

// SetMTU implements netstack.LinkEndpoint.
func (l *link) SetMTU(mtu uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mtu = mtu
}

// Capabilities implements netstack.LinkEndpoint: read has verified checksums.
func (l *link) Capabilities() netstack.LinkEndpointCapabilities {
	return netstack.CapabilityRXChecksumOffload
}

// GSOMaxSize implements netstack.GSOEndpoint.
func (l *link) GSOMaxSize() uint32 { return gsoMax }

// SupportedGSO implements netstack.GSOEndpoint.
func (l *link) SupportedGSO() netstack.SupportedGSO {
	if l.offloads {
		return netstack.HostGSOSupported
	}
	return netstack.GVisorGSOSupported
}

// Attach implements netstack.LinkEndpoint.
func (l *link) Attach(d netstack.NetworkDispatcher) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dispatcher = d
}

// IsAttached implements netstack.LinkEndpoint.
func (l *link) IsAttached() bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.dispatcher != nil
}

// LinkAddress implements netstack.LinkEndpoint; a TUN has none.
func (l *link) LinkAddress() tcpip.LinkAddress {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.address
}

// SetLinkAddress implements netstack.LinkEndpoint.
func (l *link) SetLinkAddress(a tcpip.LinkAddress) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.address = a
}

// MaxHeaderLength implements netstack.LinkEndpoint.
func (*link) MaxHeaderLength() uint16 { return 0 }

// ARPHardwareType implements netstack.LinkEndpoint.
func (*link) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareNone }

// AddHeader implements netstack.LinkEndpoint.
func (*link) AddHeader(*netstack.PacketBuffer) {}

// ParseHeader implements netstack.LinkEndpoint.
func (*link) ParseHeader(*netstack.PacketBuffer) bool { return true }

// Wait implements netstack.LinkEndpoint: the stack waits for read itself.
func (*link) Wait() {}

// Close implements netstack.LinkEndpoint: the stack closes the device itself.
func (*link) Close() {}

// SetOnCloseAction implements netstack.LinkEndpoint.
func (*link) SetOnCloseAction(func()) {}
