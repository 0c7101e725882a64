package exit

import (
	"encoding/binary"
	"errors"
)

// Fields of a DNS message's header (RFC 1035 section 4.1.1), and the few values
// that an exit looks at.
const (
	headerSize = 12

	flagResponse  = 1 << 15
	maskOpcode    = 0xf << 11
	flagTruncated = 1 << 9
	flagRecursion = 1 << 8 // desired
	flagAvailable = 1 << 7 // recursion available
	maskRcode     = 0xf

	rcodeFormErr  = 1
	rcodeServFail = 2
	rcodeNotImp   = 4
	rcodeRefused  = 5

	typeIXFR = 251 // RFC 1995; transfers have many messages and are nobody's look-up
	typeAXFR = 252 // RFC 5936
	classIN  = 1
)

var errMessage = errors.New("not a dns query")

func flags(m []byte) uint16 { return binary.BigEndian.Uint16(m[2:]) }

func rcode(m []byte) int { return int(flags(m) & maskRcode) }

// question returns the bytes of a message's only question: name, type and class.
// nil if there is not exactly one, or it does not parse. Names in a question have
// no earlier name to point to, so that compression is refused.
func question(m []byte) []byte {
	if len(m) < headerSize || binary.BigEndian.Uint16(m[4:]) != 1 {
		return nil
	}
	i := headerSize
	for {
		if i >= len(m) || m[i] > 63 || i-headerSize > 254 {
			return nil
		}
		n := int(m[i])
		i += 1 + n
		if n == 0 {
			break
		}
	}
	if i+4 > len(m) {
		return nil
	}
	return m[headerSize : i+4]
}

// refusal looks at a query and returns the response code with which the exit
// answers it itself; 0: it goes to the resolver. An error means that it is no
// query at all and gets no answer.
func refusal(query []byte) (int, error) {
	if len(query) < headerSize || flags(query)&flagResponse != 0 {
		return 0, errMessage
	}
	if flags(query)&maskOpcode != 0 {
		return rcodeNotImp, nil
	}
	q := question(query)
	if q == nil {
		return rcodeFormErr, nil
	}
	kind, class := binary.BigEndian.Uint16(q[len(q)-4:]), binary.BigEndian.Uint16(q[len(q)-2:])
	if kind == typeIXFR || kind == typeAXFR || class != classIN {
		return rcodeRefused, nil
	}
	return 0, nil
}

// failure makes the exit's own answer to a query.
func failure(query []byte, rcode int) []byte {
	q := question(query)
	b := make([]byte, headerSize, headerSize+len(q))
	copy(b, query[:2])
	f := flags(query)&(maskOpcode|flagRecursion) | flagResponse | flagAvailable | uint16(rcode)
	binary.BigEndian.PutUint16(b[2:], f)
	if q != nil {
		b[5] = 1
	}
	return append(b, q...)
}

// answers tells whether reply is a response to query: same identifier, opcode and
// question (letters of the name may differ in case).
func answers(query, reply []byte) bool {
	if len(reply) < headerSize || flags(reply)&flagResponse == 0 {
		return false
	}
	if query[0] != reply[0] || query[1] != reply[1] || (flags(query)^flags(reply))&maskOpcode != 0 {
		return false
	}
	q, r := question(query), question(reply)
	if q == nil || len(q) != len(r) {
		return false
	}
	for i := range q {
		a, b := q[i], r[i]
		if i < len(q)-4 {
			a, b = lower(a), lower(b)
		}
		if a != b {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}
