package dnscache

import (
	"encoding/binary"
	"math"
	"time"
)

// Fields of messages: RFC 1035 section 4, RFC 6891 section 6.1.
const (
	headerSize = 12
	maxName    = 255

	bitQR, bitAA, bitTC = 0x80, 0x04, 0x02 // of the third byte
	maskOpcode          = 0x78
	maskRcode           = 0x0f // of the fourth byte
	rcodeNoName         = 3

	typeCNAME, typeSOA, typeSIG, typeOPT = 5, 6, 24, 41
	firstMeta, lastMeta                  = 249, 255 // TKEY, TSIG, transfers, ANY: RFC 6895 section 3.1
	classIN                              = 1

	optionCookie, optionKeepalive, optionPadding = 10, 11, 12

	soaFixed = 20 // bytes behind the two names of an SOA; the last four are its MINIMUM

	// What a query asks of an answer beside the question: these bits of the
	// header's flags, and those of EDNS.
	flagsKept = 0x0130 // RD, AD, CD
	bitDO     = 0x8000
	bitEDNS   = 0x0001 // ours: the query has an OPT record
)

// readQuery returns the question of a query and the bits that its answer depends
// on; false: an answer to it is not to be kept.
func readQuery(b []byte) (question []byte, bits uint16, ok bool) {
	if len(b) < headerSize || b[2]&(bitQR|maskOpcode|bitTC) != 0 {
		return nil, 0, false
	}
	count := func(i int) int { return int(binary.BigEndian.Uint16(b[4+2*i:])) }
	if count(0) != 1 || count(1) != 0 || count(2) != 0 || count(3) > 1 {
		return nil, 0, false
	}
	end, ok := skipQuestion(b)
	if !ok {
		return nil, 0, false
	}
	question, bits = b[headerSize:end], binary.BigEndian.Uint16(b[2:])&flagsKept
	kind, class := tail(string(question))
	if class != classIN || kind == 0 || kind == typeOPT || kind >= firstMeta && kind <= lastMeta {
		return nil, 0, false
	}
	if count(3) == 0 {
		return question, bits, end == len(b)
	}
	r, end, ok := readRecord(b, end)
	if !ok || end != len(b) || r.kind != typeOPT || r.owner != 1 || r.ttl&^bitDO != 0 || !plainOptions(b[r.data:end]) {
		return nil, 0, false
	}
	return question, bits | uint16(r.ttl) | bitEDNS, true
}

// plainOptions tells whether EDNS options change nothing in the answer: those that
// are between the program and its resolver only (RFC 7873, 7828, 7830).
func plainOptions(b []byte) bool {
	for len(b) >= 4 {
		n := 4 + int(binary.BigEndian.Uint16(b[2:]))
		switch binary.BigEndian.Uint16(b) {
		case optionCookie, optionKeepalive, optionPadding:
		default:
			return false
		}
		if n > len(b) {
			return false
		}
		b = b[n:]
	}
	return len(b) == 0
}

// meaning is what the cache has to know of an answer.
type meaning struct {
	size int           // bytes to be kept of it
	ttls []uint16      // offsets
	life time.Duration // how long all of it holds
	opt  int           // offset of the length of an OPT record's options; 0: none
	most uint32        // no TTL may be shown above, seconds
}

// settle writes into the answer's copy what differs from what came.
func (m *meaning) settle(b []byte) {
	if m.opt != 0 {
		clear(b[m.opt : m.opt+2])
	}
	for _, at := range m.ttls {
		ttl := lasting(binary.BigEndian.Uint32(b[at:]))
		binary.BigEndian.PutUint32(b[at:], min(ttl, m.most))
	}
}

// readAnswer reads the answer to a question that was asked with these bits; false:
// it is not to be kept.
func readAnswer(b []byte, question string, bits uint16) (m meaning, ok bool) {
	if len(b) < headerSize || b[2]&bitQR == 0 || b[2]&(maskOpcode|bitTC) != 0 || len(b) > math.MaxUint16 {
		return m, false
	}
	rcode := b[3] & maskRcode
	at, ok := skipQuestion(b)
	if !ok || rcode != 0 && rcode != rcodeNoName || binary.BigEndian.Uint16(b[4:]) != 1 || folded(b[headerSize:at]) != question {
		return m, false
	}
	kind, _ := tail(question)
	m.size = len(b)
	found, denied := false, false
	least := uint32(math.MaxUint32)
	for section := range 3 {
		for range binary.BigEndian.Uint16(b[6+2*section:]) {
			r, end, ok := readRecord(b, at)
			if !ok {
				return m, false
			}
			at = end
			switch {
			case r.kind == typeOPT:
				if section != 2 || m.opt != 0 || bits&bitEDNS == 0 || r.owner != 1 || r.ttl>>16 != 0 {
					return m, false
				}
				if m.opt = r.data - 2; end > r.data {
					m.size = r.data // its options are of this exchange alone
				}
				continue
			case r.kind >= firstMeta && r.kind <= lastMeta, r.kind == typeSIG && end-r.data >= 2 && b[r.data] == 0 && b[r.data+1] == 0:
				return m, false // of this exchange alone, or a transfer's
			case r.kind == typeSOA && section == 1:
				if end-r.data < soaFixed+2 {
					return m, false
				}
				denied = true
				m.most = lasting(binary.BigEndian.Uint32(b[end-4:]))
			}
			found = found || section == 0 && r.kind == kind
			m.ttls = append(m.ttls, uint16(r.data-6))
			least = min(least, lasting(r.ttl))
		}
	}
	if at != len(b) {
		return m, false
	}
	if m.size != len(b) && m.size+int(binary.BigEndian.Uint16(b[m.opt:])) != len(b) {
		return m, false // something stands behind the options that are cut off
	}
	if rcode == 0 && found {
		m.most = math.MaxUint32
		m.life = min(seconds(least), mostPositive)
		return m, true
	}
	// There is no such name, or no such record: how long that holds is in the SOA (RFC 2308 section 5).
	m.life = min(seconds(min(least, m.most)), mostNegative)
	return m, denied
}

// lasting is a TTL as RFC 2181 section 8 has it: with the highest bit it is zero.
func lasting(ttl uint32) uint32 {
	if ttl > math.MaxInt32 {
		return 0
	}
	return ttl
}

func seconds(n uint32) time.Duration { return time.Duration(n) * time.Second }

// record is a resource record (RFC 1035 section 4.1.3).
type record struct {
	kind  uint16
	ttl   uint32
	owner int // bytes of its name
	data  int // offset
}

// readRecord reads the record at an offset and returns the offset of what follows.
func readRecord(b []byte, at int) (r record, end int, ok bool) {
	end, ok = skipName(b, at)
	if !ok || end+10 > len(b) {
		return r, 0, false
	}
	r = record{binary.BigEndian.Uint16(b[end:]), binary.BigEndian.Uint32(b[end+4:]), end - at, end + 10}
	end = r.data + int(binary.BigEndian.Uint16(b[end+8:]))
	return r, end, end <= len(b)
}

// skipName returns the offset behind a name, which may end in a pointer.
func skipName(b []byte, at int) (int, bool) {
	for begin := at; at < len(b) && at-begin <= maxName; {
		n := int(b[at])
		switch {
		case n == 0:
			return at + 1, true
		case n >= 0xc0:
			return at + 2, at+2 <= len(b)
		case n > 63:
			return 0, false
		}
		at += 1 + n
	}
	return 0, false
}

// skipQuestion returns the offset behind the first question, whose name has no
// pointer: there is nothing before it to point to.
func skipQuestion(b []byte) (int, bool) {
	end, ok := skipName(b, headerSize)
	if !ok || end > len(b)-4 || !plainName(b[headerSize:end]) {
		return 0, false
	}
	return end + 4, true
}

// plainName tells whether a name is labels up to the root.
func plainName(b []byte) bool {
	for i := 0; i < len(b); i += 1 + int(b[i]) {
		if b[i] == 0 {
			return i == len(b)-1
		}
		if b[i] > 63 {
			return false
		}
	}
	return false
}

// tail returns the type and class of a question.
func tail(question string) (kind, class uint16) {
	t := question[len(question)-4:] // there are that many
	return uint16(t[0])<<8 | uint16(t[1]), uint16(t[2])<<8 | uint16(t[3])
}

// folded is a question with its name in lower case (RFC 4343): lengths of labels are below 'A'.
func folded(question []byte) string {
	b := append([]byte(nil), question...)
	for i, c := range b[:len(b)-4] {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}
