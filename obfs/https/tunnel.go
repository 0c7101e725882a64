package https

import (
	"net"
	"sync"
	"sync/atomic"
	"time"

	"cuttle/obfs"
)

// maxFlight is how much plaintext one system call carries at most: four TLS
// records.
const maxFlight = 64 << 10

// tunnel is a TLS connection after the switch: a plain stream.
type tunnel struct {
	tls net.Conn // *tls.Conn or *utls.UConn, over raw
	raw *rawConn

	writers atomic.Int32 // in Write now
	wmu     sync.Mutex   // one writer at a time between cork and uncork

	once   sync.Once
	closed chan struct{} // closed by Close
	err    error         // of Close
}

func newTunnel(tls net.Conn, raw *rawConn) *tunnel {
	return &tunnel{tls: tls, raw: raw, closed: make(chan struct{})}
}

// NetConn gives the raw connection beneath TLS.
func (t *tunnel) NetConn() net.Conn { return t.raw.Conn }

func (t *tunnel) Read(p []byte) (int, error) {
	n, err := t.tls.Read(p)
	return n, obfs.Scrub(err)
}

// Write sends p in flights of whole records. After an error, a deadline included,
// nothing more can be written.
func (t *tunnel) Write(p []byte) (int, error) {
	t.writers.Add(1)
	defer t.writers.Add(-1)
	t.wmu.Lock()
	defer t.wmu.Unlock()
	done := 0
	for first := true; first || len(p) > 0; first = false {
		flight := p[:min(len(p), maxFlight)]
		t.raw.cork()
		_, err := t.tls.Write(flight)
		if flush := t.raw.uncork(); err == nil {
			err = flush
		}
		if err != nil {
			return done, obfs.Scrub(err)
		}
		done += len(flight)
		p = p[len(flight):]
	}
	return done, nil
}

// Close ends both directions. It tells the far end (close_notify) unless that
// would have to wait behind a writer.
func (t *tunnel) Close() error {
	t.once.Do(func() {
		if t.writers.Load() > 0 {
			t.err = t.raw.Close()
		} else {
			t.raw.closing.Store(true)
			t.err = t.tls.Close()
		}
		close(t.closed)
	})
	return obfs.Scrub(t.err)
}

func (t *tunnel) LocalAddr() net.Addr                { return t.raw.LocalAddr() }
func (t *tunnel) RemoteAddr() net.Addr               { return t.raw.RemoteAddr() }
func (t *tunnel) SetDeadline(d time.Time) error      { return obfs.Scrub(t.tls.SetDeadline(d)) }
func (t *tunnel) SetReadDeadline(d time.Time) error  { return obfs.Scrub(t.tls.SetReadDeadline(d)) }
func (t *tunnel) SetWriteDeadline(d time.Time) error { return obfs.Scrub(t.tls.SetWriteDeadline(d)) }
