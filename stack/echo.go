package stack

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

const (
	echoHeader = 8    // type, code, checksum, identifier, sequence (RFC 792, RFC 4443 section 4)
	echoHead   = 3    // of an echo datagram, see Dialer.DialEcho
	echoData   = 1472 // bytes that go on; what a packet of 1500 bytes holds
)

var errEcho = errors.New("not an echo datagram")

// echoProblems says what the statuses of echo datagrams mean; see Dialer.DialEcho.
var echoProblems = map[byte]problem{2: hostUnreachable, 3: netUnreachable, 5: prohibited, 9: timeExceeded}

// ping takes an echo request. It is called by the link's reader and never waits.
func (s *Stack) ping(packet []byte, p summary) {
	request := packet[p.payload:]
	if !echoVerified(request, p) {
		s.link.dropped.Add(1)
		return
	}
	if p.fragment || len(request)-echoHeader > echoData {
		s.link.reply(icmpError(prohibited, packet, 0))
		return
	}
	key := udpKey{src: netip.AddrPortFrom(p.src, binary.BigEndian.Uint16(request[4:])), dst: netip.AddrPortFrom(p.dst, 0)}
	f, fresh := s.echo.get(s.ctx, key, key.dst)
	if fresh {
		if !s.enter() {
			s.echo.remove(f)
			return
		}
		go func() { // ends when f does: idle, evicted, broken or stopped
			defer s.running.Done()
			s.serveEcho(f)
		}()
	}
	d := datagrams.Get().(*datagram)
	d.b = append(append(append(d.b[:0], 0), request[6:8]...), request[echoHeader:]...)
	select {
	case f.queue <- d:
	default:
		d.release()
		s.link.dropped.Add(1)
	}
}

// echoVerified tells whether the checksum of an echo request holds; of a fragment
// it cannot be told.
func echoVerified(request []byte, p summary) bool {
	if p.fragment {
		return true
	}
	sum := uint16(0)
	if p.proto == protoICMP6 {
		sum = pseudoHeader(p.src, p.dst, protoICMP6, len(request))
	}
	return checksum.Checksum(request, sum) == 0xffff
}

// serveEcho dials for f and carries its requests until it ends.
func (s *Stack) serveEcho(f *udpFlow) {
	defer s.echo.remove(f)
	ctx, cancel := context.WithTimeout(f.ctx, dialTimeout)
	conn, err := s.cfg.Dialer.DialEcho(ctx, NewFlow(f.key.src, f.key.dst))
	cancel()
	if err != nil {
		select {
		case d := <-f.queue: // the first request, which has made the flow
			s.refuseEcho(f, err, binary.BigEndian.Uint16(d.b[1:]))
			d.release()
		default:
		}
		return
	}
	var last atomic.Uint32 // the newest request's sequence number
	var inner sync.WaitGroup
	inner.Go(func() { s.echo.watch(f) }) // ends with f
	inner.Go(func() {                    // ends when conn is closed
		defer f.cancel()
		err := s.echoReplies(f, conn)
		s.refuseEcho(f, err, uint16(last.Load()))
	})
	s.echoRequests(f, conn, &last)
	s.echo.remove(f)
	_ = conn.Close()
	inner.Wait()
}

// echoRequests writes what the program sends to conn.
func (s *Stack) echoRequests(f *udpFlow, conn PacketConn, last *atomic.Uint32) {
	for {
		select {
		case <-f.ctx.Done():
			return
		case d := <-f.queue:
			sequence := binary.BigEndian.Uint16(d.b[1:])
			last.Store(uint32(sequence))
			_, err := conn.Write(d.b)
			d.release()
			if err != nil {
				s.refuseEcho(f, err, sequence)
				return
			}
		}
	}
}

// echoReplies sends what conn reads to the program until it fails.
func (s *Stack) echoReplies(f *udpFlow, conn PacketConn) error {
	var b [echoHead + echoData + 1]byte
	for {
		n, err := conn.Read(b[:])
		if err != nil {
			return err
		}
		if n < echoHead || n > echoHead+echoData {
			return errEcho
		}
		sequence := binary.BigEndian.Uint16(b[1:])
		what, isError := echoProblems[b[0]]
		switch {
		case b[0] == 0:
			f.replied.Store(true)
			s.echo.touch(f)
			s.link.reply(echoPacket(f.key.dst.Addr(), f.key.src, true, sequence, b[echoHead:n]))
		case isError:
			s.echo.touch(f)
			s.echoError(f, what, sequence)
		default:
			return errEcho
		}
	}
}

// refuseEcho tells the program that its flow failed, unless it ended by our doing
// or for a reason that has no word in ICMP.
func (s *Stack) refuseEcho(f *udpFlow, err error, sequence uint16) {
	if what, ok := problemOf(err); ok && f.ctx.Err() == nil {
		s.echoError(f, what, sequence)
	}
}

// echoError tells the program what became of one request, of which the header is
// quoted.
func (s *Stack) echoError(f *udpFlow, what problem, sequence uint16) {
	request := echoPacket(f.key.src.Addr(), netip.AddrPortFrom(f.key.dst.Addr(), f.key.src.Port()), false, sequence, nil)
	s.link.reply(icmpError(what, request, 0))
}

// echoPacket makes an echo request, or a reply, from src to dst, whose port is the
// identifier.
func echoPacket(src netip.Addr, dst netip.AddrPort, reply bool, sequence uint16, data []byte) []byte {
	head, kind := header.IPv4MinimumSize, byte(header.ICMPv4Echo)
	switch {
	case src.Is6() && reply:
		head, kind = header.IPv6MinimumSize, byte(header.ICMPv6EchoReply)
	case src.Is6():
		head, kind = header.IPv6MinimumSize, byte(header.ICMPv6EchoRequest)
	case reply:
		kind = byte(header.ICMPv4EchoReply)
	}
	b := make([]byte, head+echoHeader+len(data))
	m := b[head:]
	m[0] = kind
	binary.BigEndian.PutUint16(m[4:], dst.Port())
	binary.BigEndian.PutUint16(m[6:], sequence)
	copy(m[echoHeader:], data)
	sum := uint16(0)
	if src.Is6() {
		b[0] = 0x60
		binary.BigEndian.PutUint16(b[4:], uint16(len(m)))
		b[6], b[7] = protoICMP6, 64
		copy(b[8:24], src.AsSlice())
		copy(b[24:40], dst.Addr().AsSlice())
		sum = pseudoHeader(src, dst.Addr(), protoICMP6, len(m))
	} else {
		b[0] = 0x45
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
		b[8], b[9] = 64, protoICMP4
		copy(b[12:16], src.AsSlice())
		copy(b[16:20], dst.Addr().AsSlice())
		binary.BigEndian.PutUint16(b[10:], ^checksum.Checksum(b[:20], 0))
	}
	binary.BigEndian.PutUint16(m[2:], ^checksum.Checksum(m, sum))
	return b
}
