package https

import (
	"crypto/tls"
	"encoding/binary"
	"io"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
)

const frameHead = 9 // RFC 9113 section 4.1

// frames stands between TLS and the HTTP/2 server and follows the client's
// frames. It passes everything on unchanged, until a client whose proof was right
// asks for the switch: then the HTTP/2 server sees the end of the connection, and
// the TLS connection, read up to exactly that point, is free.
//
// One goroutine reads. proven is written by a handler.
type frames struct {
	*tls.Conn
	proven   atomic.Pointer[claim] // set by the handler when a request carried a proof
	switched atomic.Bool           // set by Read; the HTTP/2 server then no longer owns the connection

	asked bool // a request has begun
	head  []byte
	buf   [frameHead]byte
	left  int // bytes of the present frame that have not been read
}

func newFrames(c *tls.Conn) *frames {
	return &frames{Conn: c, left: len(http2.ClientPreface)}
}

// Read gives whole heads and then payloads; it never reads past a frame.
func (f *frames) Read(p []byte) (int, error) {
	switch {
	case len(p) == 0:
		return 0, nil
	case len(f.head) == 0 && f.left == 0:
		if err := f.readHead(); err != nil {
			return 0, err
		}
		fallthrough
	case len(f.head) > 0:
		n := copy(p, f.head)
		f.head = f.head[n:]
		return n, nil
	}
	f.deadline(frameTimeout)
	n, err := f.Conn.Read(p[:min(len(p), f.left)])
	f.left -= n
	return n, err
}

// readHead reads the next frame's head; io.EOF when it asked for the switch.
func (f *frames) readHead() error {
	if f.asked {
		f.deadline(visitTimeout + graceTimeout) // the HTTP/2 server's own timer comes first
	} else {
		f.deadline(firstTimeout)
	}
	if _, err := io.ReadFull(f.Conn, f.buf[:]); err != nil {
		return err
	}
	size := int(f.buf[0])<<16 | int(f.buf[1])<<8 | int(f.buf[2])
	kind, flags := http2.FrameType(f.buf[3]), f.buf[4]
	id := binary.BigEndian.Uint32(f.buf[5:])
	if kind == http2.FrameData && flags == 0 && id == stream && size <= maxSwitchPayload && f.proven.Load() != nil {
		f.deadline(frameTimeout)
		if _, err := io.CopyN(io.Discard, f.Conn, int64(size)); err != nil {
			return err
		}
		f.switched.Store(true)
		return io.EOF
	}
	f.asked = f.asked || kind == http2.FrameHeaders
	f.head, f.left = f.buf[:], size
	return nil
}

// deadline bounds the next read. An error shows in that read.
func (f *frames) deadline(d time.Duration) { _ = f.Conn.SetReadDeadline(time.Now().Add(d)) }

// Close is what the HTTP/2 server calls when it is done: it does not close a
// connection that has switched.
func (f *frames) Close() error {
	if f.switched.Load() {
		return nil
	}
	return f.Conn.Close()
}
