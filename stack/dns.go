package stack

import (
	"context"
	"encoding/binary"
	"io"
	"time"

	"github.com/miekg/dns"
)

const (
	dnsPort    = 53
	dnsHeader  = 12   // bytes
	dnsPlain   = 512  // largest answer over UDP without EDNS, RFC 1035 section 4.2.1
	rcodeServe = 2    // SERVFAIL, RFC 1035 section 4.1.1
	dnsOurs    = 1232 // what our own answers say that we take over UDP, bytes
)

// question answers one DNS message over UDP in a goroutine of its own, and owns
// d. Over the bound, the answer is SERVFAIL at once.
func (s *Stack) question(f Flow, d *datagram) {
	if !s.enter() {
		d.release()
		return
	}
	select {
	case s.resolves <- struct{}{}:
	default:
		s.answer(f, serverFailure(d.b))
		d.release()
		s.running.Done()
		return
	}
	go func() { // ends with resolve, which has a deadline
		defer s.running.Done()
		defer d.release()
		reply := s.resolve(f, d.b)
		<-s.resolves
		s.answer(f, fitUDP(d.b, reply))
	}()
}

// answer sends a DNS message back over UDP; nil is nothing to send.
func (s *Stack) answer(f Flow, reply []byte) {
	if reply == nil {
		return
	}
	r, err := s.routeBack(f)
	if err != nil {
		return
	}
	defer r.Release()
	s.send(r, f, reply)
}

// resolve asks the Dialer. It returns an answer to query in any case, or nil if
// query is no question.
func (s *Stack) resolve(f Flow, query []byte) []byte {
	if !isQuestion(query) {
		return nil
	}
	ctx, cancel := context.WithTimeout(s.ctx, resolveTimeout)
	defer cancel()
	reply, err := s.cfg.Dialer.Resolve(ctx, f, query)
	if err != nil || len(reply) < dnsHeader || len(reply) > 0xffff {
		return serverFailure(query)
	}
	return reply
}

// serveDNS answers DNS over TCP (RFC 7766), one question after the other, until
// the program closes the connection or is silent for too long.
func (s *Stack) serveDNS(f Flow, e *endpoint) {
	defer e.abort()
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	idle := time.AfterFunc(dnsIdle, cancel)
	defer idle.Stop()
	defer context.AfterFunc(ctx, e.abort)()
	buf := copyBuffers.Get().(*[copySize]byte)
	defer copyBuffers.Put(buf)
	for {
		if _, err := io.ReadFull(e, buf[:2]); err != nil {
			break
		}
		query := buf[2 : 2+int(binary.BigEndian.Uint16(buf[:]))]
		if _, err := io.ReadFull(e, query); err != nil {
			break
		}
		select {
		case s.resolves <- struct{}{}:
		case <-ctx.Done():
			return
		}
		reply := s.resolve(f, query)
		<-s.resolves
		if reply == nil {
			return
		}
		if _, err := e.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...)); err != nil {
			return
		}
		idle.Reset(dnsIdle)
	}
	e.closeWrite()
	e.close()
}

// isQuestion tells whether b starts like a query (RFC 1035 section 4.1.1).
func isQuestion(b []byte) bool { return len(b) >= dnsHeader && b[2]&0x80 == 0 }

// serverFailure makes the answer SERVFAIL to query; nil if it is no question.
func serverFailure(query []byte) []byte {
	b := emptyAnswer(query)
	if b != nil {
		b[3] |= rcodeServe
	}
	return b
}

// emptyAnswer makes an answer to query with its first question and no records but
// that of EDNS, if the query has one (RFC 6891 section 6.1.1).
func emptyAnswer(query []byte) []byte {
	if !isQuestion(query) {
		return nil
	}
	end := questionEnd(query)
	b := append(make([]byte, 0, end), query[:end]...)
	b[2] = 0x80 | b[2]&0x79 // QR; opcode and RD stay
	b[3] = 0x80             // RA
	clear(b[4:dnsHeader])
	if end > dnsHeader {
		b[5] = 1
	}
	if o := edns(query); o != nil {
		b[11] = 1
		b = append(b, 0, 0, byte(dns.TypeOPT))
		b = binary.BigEndian.AppendUint16(b, dnsOurs)
		b = append(b, 0, 0, 0, 0, 0, 0) // code and version, flags, no options
		if o.Do() {
			b[len(b)-4] = 0x80
		}
	}
	return b
}

// edns returns the EDNS record of a query, nil if there is none.
func edns(query []byte) *dns.OPT {
	var m dns.Msg
	if m.Unpack(query) != nil {
		return nil
	}
	return m.IsEdns0()
}

// questionEnd finds the end of the first question of a message, or of the
// header if it has none that can be read.
func questionEnd(b []byte) int {
	if binary.BigEndian.Uint16(b[4:]) == 0 {
		return dnsHeader
	}
	for i := dnsHeader; i < len(b); {
		size := int(b[i])
		switch {
		case size == 0 && i+5 <= len(b):
			return i + 5
		case size == 0 || size > 63: // truncated, or compressed, which a question never is
			return dnsHeader
		}
		i += 1 + size
	}
	return dnsHeader
}

// fitUDP returns reply, or a truncated answer if reply is larger than what the
// program takes over UDP (RFC 6891 section 6.2.3), so that it asks over TCP.
func fitUDP(query, reply []byte) []byte {
	if len(reply) <= dnsPlain {
		return reply
	}
	limit := dnsPlain
	if o := edns(query); o != nil {
		limit = max(limit, int(o.UDPSize()))
	}
	if len(reply) <= limit {
		return reply
	}
	b := emptyAnswer(query)
	if b != nil {
		b[2] |= 0x02 // TC
		b[3] |= reply[3] & 0x0f
	}
	return b
}
