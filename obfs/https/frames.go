package https

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
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
// The other way it takes one setting out of the HTTP/2 server's first frame.
//
// One goroutine reads and one at a time writes. proven is written by a handler.
type frames struct {
	*tls.Conn
	proven   atomic.Pointer[claim] // set by the handler when a request carried a proof
	switched atomic.Bool           // set by Read; the HTTP/2 server then no longer owns the connection

	head []byte
	buf  [frameHead]byte
	left int // bytes of the present frame that have not been read

	begun bool // the HTTP/2 server has written
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
	f.deadline()
	n, err := f.Conn.Read(p[:min(len(p), f.left)])
	f.left -= n
	return n, err
}

// readHead reads the next frame's head; io.EOF when it asked for the switch.
func (f *frames) readHead() error {
	f.deadline()
	if _, err := io.ReadFull(f.Conn, f.buf[:]); err != nil {
		return err
	}
	size := int(f.buf[0])<<16 | int(f.buf[1])<<8 | int(f.buf[2])
	kind, flags := http2.FrameType(f.buf[3]), f.buf[4]
	id := binary.BigEndian.Uint32(f.buf[5:])
	if kind == http2.FrameData && flags == 0 && id == stream && size <= maxSwitchPayload && f.proven.Load() != nil {
		f.deadline()
		if _, err := io.CopyN(io.Discard, f.Conn, int64(size)); err != nil {
			return err
		}
		f.switched.Store(true)
		return io.EOF
	}
	f.head, f.left = f.buf[:], size
	return nil
}

// deadline bounds the next read. An error shows in that read.
func (f *frames) deadline() { _ = f.Conn.SetReadDeadline(time.Now().Add(silenceTimeout)) }

// Write passes on what the HTTP/2 server says.
func (f *frames) Write(p []byte) (int, error) {
	if f.begun {
		return f.Conn.Write(p)
	}
	f.begun = true
	if _, err := f.Conn.Write(likeNetHTTP(p)); err != nil {
		return 0, err
	}
	return len(p), nil
}

// likeNetHTTP gives what net/http's own HTTP/2 server says first. golang.org/x/net
// adds NO_RFC7540_PRIORITIES (RFC 9218 section 2.1) to the SETTINGS at the beginning;
// both treat priorities alike. (From Go 1.27 on both are one server and say it: then
// TestLikeNetHTTP fails until this is gone.)
func likeNetHTTP(first []byte) []byte {
	var out bytes.Buffer
	rest := bytes.NewReader(first)
	framer := http2.NewFramer(&out, rest)
	f, err := framer.ReadFrame()
	said, ok := f.(*http2.SettingsFrame)
	if err != nil || !ok {
		return first
	}
	var settings []http2.Setting
	err = said.ForeachSetting(func(s http2.Setting) error {
		if s.ID != http2.SettingNoRFC7540Priorities {
			settings = append(settings, s)
		}
		return nil
	})
	if errors.Join(err, framer.WriteSettings(settings...)) != nil {
		return first
	}
	return append(out.Bytes(), first[len(first)-rest.Len():]...)
}

// Close is what the HTTP/2 server calls when it is done: it does not close a
// connection that has switched.
func (f *frames) Close() error {
	if f.switched.Load() {
		return nil
	}
	return f.Conn.Close()
}
