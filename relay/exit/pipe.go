package exit

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// lineIdle is how long a connection to a resolver is kept without a query.
const lineIdle = 30 * time.Second

var (
	errClosed = errors.New("exit is closed")
	errSilent = errors.New("resolver is silent")
)

// pipe asks a resolver over one connection for all queries, several at a time and
// answered in any order (RFC 7766 section 6.2.1, RFC 7858 section 3.3). It is
// opened when there is a query and closed when there was none for a while.
type pipe struct {
	dial func(ctx context.Context) (net.Conn, error)
	turn chan struct{} // one token: who dials

	mu      sync.Mutex // guards the rest
	current *line      // nil: none
	closed  bool
	work    sync.WaitGroup // readers of lines
}

func newPipe(dial func(ctx context.Context) (net.Conn, error)) *pipe {
	return &pipe{dial: dial, turn: make(chan struct{}, 1)}
}

// ask puts a query (with an identifier of its own) and returns the answer as it
// came. A connection that the resolver has closed meanwhile is replaced once.
func (p *pipe) ask(ctx context.Context, query []byte) ([]byte, error) {
	for {
		l, fresh, err := p.line(ctx)
		if err != nil {
			return nil, err
		}
		answer, err := l.ask(ctx, query)
		if err == nil || fresh || ctx.Err() != nil {
			return answer, err
		}
	}
}

// line gives the connection, opening it if there is none: fresh tells which.
func (p *pipe) line(ctx context.Context) (l *line, fresh bool, err error) {
	select {
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
	case <-ctx.Done():
		return nil, false, ctx.Err()
	}
	p.mu.Lock()
	l = p.current
	p.mu.Unlock()
	if l != nil && l.alive() {
		return l, false, nil
	}
	conn, err := p.dial(ctx)
	if err != nil {
		return nil, false, err
	}
	l = &line{conn: conn, waiting: make(map[uint16]*asked), dead: make(chan struct{})}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		_ = conn.Close()
		return nil, false, errClosed
	}
	p.current = l
	p.work.Go(l.read) // ends when the connection does, after lineIdle at the latest
	return l, true, nil
}

// close ends the connection and waits for its reader.
func (p *pipe) close() {
	p.mu.Lock()
	p.closed = true
	if p.current != nil {
		p.current.end(errClosed)
	}
	p.mu.Unlock()
	p.work.Wait()
}

// line is one connection.
type line struct {
	conn    net.Conn
	writing sync.Mutex // held while a query is written

	mu      sync.Mutex // guards the rest
	waiting map[uint16]*asked
	heard   uint64 // answers so far
	err     error
	dead    chan struct{} // closed when err is set
}

// asked is a query that waits for its answer.
type asked struct {
	query  []byte
	answer chan []byte // holds one
}

func (l *line) alive() bool {
	select {
	case <-l.dead:
		return false
	default:
		return true
	}
}

// end closes the connection; the first cause counts.
func (l *line) end(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.err = err
		close(l.dead)
		_ = l.conn.Close()
	}
}

func (l *line) ask(ctx context.Context, query []byte) ([]byte, error) {
	q := &asked{answer: make(chan []byte, 1)}
	frame := append(binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(query)), uint16(len(query))), query...)
	q.query = frame[2:]
	l.mu.Lock()
	for {
		_, _ = rand.Read(q.query[:2]) // never fails
		if _, taken := l.waiting[binary.BigEndian.Uint16(q.query)]; !taken {
			break // there are less than 65536: Limits.Queries at most
		}
	}
	id := binary.BigEndian.Uint16(q.query)
	l.waiting[id] = q
	heard := l.heard
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.waiting, id)
	}()
	if err := l.write(frame); err != nil {
		return nil, err
	}
	select {
	case a := <-q.answer:
		return a, nil
	case <-l.dead:
		select {
		case a := <-q.answer:
			return a, nil
		default:
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		return nil, l.err
	case <-ctx.Done():
	}
	l.mu.Lock()
	silent := l.heard == heard
	l.mu.Unlock()
	if silent && errors.Is(ctx.Err(), context.DeadlineExceeded) { // not this name alone
		l.end(errSilent)
	}
	return nil, ctx.Err()
}

func (l *line) write(frame []byte) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	_ = l.conn.SetWriteDeadline(time.Now().Add(tcpTime))
	if _, err := l.conn.Write(frame); err != nil {
		l.end(err)
		return err
	}
	return nil
}

// read deals out answers until the connection fails, is idle, or says something that
// nobody asked for.
func (l *line) read() {
	for {
		_ = l.conn.SetReadDeadline(time.Now().Add(lineIdle))
		var head [2]byte
		if _, err := io.ReadFull(l.conn, head[:]); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				err = errSilent
			}
			l.end(err)
			return
		}
		answer := make([]byte, binary.BigEndian.Uint16(head[:]))
		if _, err := io.ReadFull(l.conn, answer); err != nil {
			l.end(err)
			return
		}
		if !l.deal(answer) {
			l.end(errReply)
			return
		}
	}
}

// deal gives an answer to who asked; false: it is none. Nobody may wait any more.
func (l *line) deal(answer []byte) bool {
	if len(answer) < headerSize {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.heard++
	q := l.waiting[binary.BigEndian.Uint16(answer)]
	if q == nil {
		return flags(answer)&flagResponse != 0
	}
	if !answers(q.query, answer) {
		return false
	}
	select {
	case q.answer <- answer:
	default: // it has one
	}
	return true
}
