package session

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"sync"
	"time"

	"cuttle/relay/wire"
)

const (
	minMessage   = 12 // header of a DNS message (RFC 1035 section 4.1.1)
	maxMessage   = 65535
	exchangeTime = 15 * time.Second // at most, for an answer
)

var (
	errMessage = errors.New("not a dns message")
	errAnswer  = errors.New("no answer")
)

// exchanger sends DNS queries of many programs over one stream of kind DNS, as
// RFC 7766 has it over TCP: framed by their length, answered in any order. Their
// identifiers are replaced, so that programs do not collide.
type exchanger struct {
	client *Client
	slots  chan struct{} // one token per query

	mu     sync.Mutex // guards the rest
	line   *line
	number uint16
}

// line is one DNS stream and the queries that wait on it.
type line struct {
	stream  *Stream
	waiting map[uint16]chan []byte // guarded by exchanger.mu; nil when the stream has ended
}

func (x *exchanger) init(c *Client) {
	x.client = c
	x.slots = make(chan struct{}, c.m.cfg.Queries)
}

// Exchange sends one DNS message to the exit's resolver and returns its answer,
// with query's identifier. It waits while as many queries as Config.Queries are
// under way, and for 15 s at most.
func (c *Client) Exchange(ctx context.Context, query []byte) ([]byte, error) {
	if len(query) < minMessage || len(query) > maxMessage || query[2]&0x80 != 0 {
		return nil, errMessage
	}
	ctx, cancel := context.WithTimeout(ctx, exchangeTime)
	defer cancel()
	x := &c.dns
	select {
	case x.slots <- struct{}{}:
		defer func() { <-x.slots }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	// The line may have been ended by the exit since it was last used.
	answer, err := x.exchange(ctx, query)
	if errors.Is(err, errAnswer) {
		answer, err = x.exchange(ctx, query)
	}
	return answer, err
}

func (x *exchanger) exchange(ctx context.Context, query []byte) ([]byte, error) {
	l, number, reply, err := x.register()
	if err != nil {
		return nil, err
	}
	defer x.forget(l, number)
	frame := make([]byte, 0, 2+len(query))
	frame = binary.BigEndian.AppendUint16(frame, uint16(len(query)))
	frame = append(frame, query...)
	binary.BigEndian.PutUint16(frame[2:], number)
	// Later queries move the deadline on, but only as many as there are slots.
	_ = l.stream.SetWriteDeadline(time.Now().Add(exchangeTime))
	if _, err := l.stream.Write(frame); err != nil {
		l.stream.Reset(wire.CodeEnded)
		return nil, errAnswer
	}
	select {
	case answer, ok := <-reply:
		if !ok {
			return nil, errAnswer
		}
		copy(answer, query[:2])
		return answer, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// register finds or opens the line and takes a number that is free on it.
func (x *exchanger) register() (*line, uint16, chan []byte, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.line == nil {
		s, err := x.client.openStream(wire.KindDNS, wire.Destination{})
		if err != nil {
			return nil, 0, nil, err
		}
		x.line = &line{s, make(map[uint16]chan []byte)}
		l := x.line
		x.client.m.work.Go(func() { x.listen(l) }) // ends with the stream
	}
	l := x.line
	for x.number++; l.waiting[x.number] != nil; x.number++ {
	}
	reply := make(chan []byte, 1)
	l.waiting[x.number] = reply
	return l, x.number, reply, nil
}

// quiet tells whether the line is open and no query waits on it.
func (x *exchanger) quiet() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.line != nil && len(x.line.waiting) == 0
}

func (x *exchanger) forget(l *line, number uint16) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(l.waiting, number)
}

// listen hands out the answers of one line.
func (x *exchanger) listen(l *line) {
	for {
		answer, err := readMessage(l.stream)
		if err != nil {
			break
		}
		x.mu.Lock()
		if reply := l.waiting[binary.BigEndian.Uint16(answer)]; reply != nil {
			delete(l.waiting, binary.BigEndian.Uint16(answer))
			reply <- answer // has room for one
		}
		x.mu.Unlock()
	}
	x.mu.Lock()
	if x.line == l {
		x.line = nil
	}
	for _, reply := range l.waiting {
		close(reply)
	}
	l.waiting = nil
	x.mu.Unlock()
	l.stream.Reset(wire.CodeEnded)
}

// questions reads the messages of a DNS stream at the exit. The bytes of each count
// from their arrival until the caller gives them back; those of one that is not whole
// exchangeTime after its first byte (RFC 7766 section 6.2.3) are given back at once.
type questions struct {
	stream *Stream
	bytes  int // of the message so far, its length included
}

// next reads a message and tells how many bytes count for it.
func (q *questions) next() (query []byte, bytes int, err error) {
	q.bytes = 0
	query, err = readMessage(q)
	_ = q.stream.SetReadDeadline(time.Time{})
	if err != nil {
		q.stream.serve(-q.bytes)
		return nil, 0, err
	}
	return query, q.bytes, nil
}

func (q *questions) Read(p []byte) (int, error) {
	n, err := q.stream.Read(p)
	if n == 0 {
		return 0, err
	}
	if q.bytes == 0 {
		_ = q.stream.SetReadDeadline(time.Now().Add(exchangeTime))
	}
	q.bytes += n
	if !q.stream.serve(n) {
		return n, &Error{wire.CodeResources}
	}
	return n, err
}

// serve counts n more bytes of the DNS messages that the stream is served with, fewer
// if n is negative, and tells whether that is within the budgets.
func (s *Stream) serve(n int) bool {
	s.served.Add(int64(n))
	return s.m.memory.hold(n)
}

// readMessage reads one DNS message framed as in RFC 1035 section 4.2.2.
func readMessage(r io.Reader) ([]byte, error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(head[:]))
	if n < minMessage {
		return nil, errMessage
	}
	// Memory comes with the bytes: a length alone is no reason to take it.
	b, err := io.ReadAll(io.LimitReader(r, int64(n)))
	if err == nil && len(b) < n {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, err
	}
	return b, nil
}
