package exit

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"time"

	"cuttle/relay/session"
	"cuttle/relay/wire"
)

const (
	udpTime   = 2 * time.Second // for one resolver's answer over UDP
	tcpTime   = 5 * time.Second // over TCP
	rounds    = 2               // times the list of resolvers is gone through
	maxStrays = 8               // replies that do not match, before UDP is not trusted with this query
)

var (
	errStrays = errors.New("replies that do not match")
	errReply  = errors.New("reply does not match")
)

// resolve sends a query to the configured resolvers, in order, and returns the
// first answer that says more than that the resolver cannot. The query goes out
// as it is but for its identifier, which is random; the answer comes back as it
// is, addresses that the policy forbids included, since what is dialed is checked.
// If no resolver answers, the answer is SERVFAIL. Only bytes that are no query are
// an error.
func (e *Exit) resolve(ctx context.Context, c *Circuit, query []byte) ([]byte, error) {
	e.counts.queries.Add(1)
	code, err := refusal(query)
	if err != nil {
		return nil, &session.Error{Code: wire.CodeForbidden}
	}
	if code != 0 {
		return failure(query, code), nil
	}
	if !c.asking.take(time.Now()) {
		e.counts.limited.Add(1)
		return failure(query, rcodeServFail), nil
	}
	ctx, cancel := context.WithTimeout(ctx, e.cfg.ResolveTimeout)
	defer cancel()
	if e.queries.wait(ctx, &c.questions) != nil {
		e.counts.unanswered.Add(1)
		return failure(query, rcodeServFail), nil
	}
	defer e.queries.give(&c.questions)
	if answer := e.where(ctx, query); answer != nil {
		return answer, nil
	}
	var last []byte // an answer that says no more than that
	for range rounds {
		for _, r := range e.cfg.Resolvers {
			answer, err := e.ask(ctx, r, query)
			if err != nil {
				continue
			}
			copy(answer, query[:2])
			if c := rcode(answer); c != rcodeServFail && c != rcodeRefused {
				return answer, nil
			}
			last = answer
		}
		if last != nil || ctx.Err() != nil {
			break
		}
	}
	if last == nil {
		e.counts.unanswered.Add(1)
		last = failure(query, rcodeServFail)
	}
	return last, nil
}

// ask puts a query to one resolver: over UDP, and over TCP if the answer is cut
// off or somebody seems to be guessing.
func (e *Exit) ask(ctx context.Context, resolver netip.AddrPort, query []byte) ([]byte, error) {
	query = slices.Clone(query)
	if _, err := rand.Read(query[:2]); err != nil {
		return nil, err
	}
	answer, err := e.exchange(ctx, "udp", udpTime, resolver, query, askUDP)
	if errors.Is(err, errStrays) || err == nil && flags(answer)&flagTruncated != 0 {
		return e.exchange(ctx, "tcp", tcpTime, resolver, query, askTCP)
	}
	return answer, err
}

// exchange opens a socket to the resolver for one query. It has a port of its
// own, chosen by the kernel at random.
func (e *Exit) exchange(ctx context.Context, network string, most time.Duration, resolver netip.AddrPort, query []byte,
	ask func(net.Conn, []byte) ([]byte, error),
) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	d := net.Dialer{Control: e.cfg.Control}
	conn, err := d.DialContext(ctx, network, resolver.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	return ask(conn, query)
}

func askUDP(conn net.Conn, query []byte) ([]byte, error) {
	if _, err := conn.Write(query); err != nil {
		return nil, err
	}
	b := buffers.Get().(*buffer)
	defer buffers.Put(b)
	for range maxStrays {
		n, err := conn.Read(b[:])
		if err != nil {
			return nil, err
		}
		if answers(query, b[:n]) {
			return slices.Clone(b[:n]), nil
		}
	}
	return nil, errStrays
}

func askTCP(conn net.Conn, query []byte) ([]byte, error) {
	frame := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(query)), uint16(len(query)))
	if _, err := conn.Write(append(frame, query...)); err != nil {
		return nil, err
	}
	var head [2]byte
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return nil, err
	}
	answer := make([]byte, binary.BigEndian.Uint16(head[:]))
	if _, err := io.ReadFull(conn, answer); err != nil {
		return nil, err
	}
	if !answers(query, answer) {
		return nil, errReply
	}
	return answer, nil
}
