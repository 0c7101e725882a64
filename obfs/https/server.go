package https

import (
	"container/list"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/net/http2"

	"cuttle/obfs"
)

// listener is the web server. Accept gives the connections that left it.
type listener struct {
	ln      net.Listener
	site    *site
	gate    *gate
	h2      *http2.Server //nolint:staticcheck // deprecated, yet the one way to stand between TLS and HTTP/2
	tunnels chan *tunnel  // unbuffered: a tunnel waits for Accept, for switchTimeout

	once   sync.Once
	closed chan struct{} // closed by Close
	served chan struct{} // closed when the web server has ended; then err is set
	err    error

	mu        sync.Mutex // guards what follows
	strangers *list.List // of *rawConn, in order of arrival
	closing   bool
}

func listen(ln net.Listener, o obfs.Options) (*listener, error) {
	if err := obfs.Only(o.Values, "cert", "key", "site", "name"); err != nil {
		return nil, err
	}
	certificate, err := newCertificates(o)
	if err != nil {
		return nil, err
	}
	pages, err := newSite(o)
	if err != nil {
		return nil, err
	}
	l := &listener{
		ln:        ln,
		site:      pages,
		gate:      newGate(o.Node, time.Now),
		tunnels:   make(chan *tunnel),
		closed:    make(chan struct{}),
		served:    make(chan struct{}),
		strangers: list.New(),
		h2:        &http2.Server{IdleTimeout: visitTimeout, WriteByteTimeout: visitTimeout}, //nolint:staticcheck // see listener.h2
	}
	srv := &http.Server{
		Handler:           l,
		ReadHeaderTimeout: firstTimeout,
		WriteTimeout:      visitTimeout,
		IdleTimeout:       visitTimeout,
		ErrorLog:          log.New(io.Discard, "", 0), // it would name visitors
		TLSNextProto:      map[string]func(*http.Server, *tls.Conn, http.Handler){http2.NextProtoTLS: l.serveH2},
	}
	conf := &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{http2.NextProtoTLS, "http/1.1"},
		GetCertificate: certificate.get,
	}
	go func() { // ends when ln is closed
		defer close(l.served)
		l.err = srv.Serve(tls.NewListener((*door)(l), conf))
	}()
	return l, nil
}

// Accept waits for a connection that switches.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case t := <-l.tunnels:
		return t, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-l.served:
		return nil, obfs.Scrub(l.err)
	}
}

// Close ends the web server and sends strangers away.
func (l *listener) Close() error {
	err := net.ErrClosed
	l.once.Do(func() {
		close(l.closed)
		err = l.ln.Close()
		l.mu.Lock()
		l.closing = true
		var all []*rawConn
		for e := l.strangers.Front(); e != nil; e = e.Next() {
			all = append(all, e.Value.(*rawConn))
		}
		l.mu.Unlock()
		for _, c := range all {
			_ = c.Close() // a stranger has no say
		}
		<-l.served
		err = errors.Join(err, l.site.Close())
	})
	return obfs.Scrub(err)
}

// Addr is where the web server listens.
func (l *listener) Addr() net.Addr { return l.ln.Addr() }

// door is the listener as the web server sees it: raw connections, each of them
// a stranger.
type door listener

func (d *door) Accept() (net.Conn, error) {
	c, err := d.ln.Accept()
	if err != nil {
		return nil, err
	}
	return (*listener)(d).admit(c), nil
}

func (d *door) Close() error   { return d.ln.Close() }
func (d *door) Addr() net.Addr { return d.ln.Addr() }

// admit lists a connection as a stranger. When there are too many the one that
// came first goes: whoever holds connections open keeps no neighbor out.
func (l *listener) admit(c net.Conn) *rawConn {
	raw := &rawConn{Conn: c}
	l.mu.Lock()
	e := l.strangers.PushBack(raw)
	raw.gone = func() { l.forget(e) }
	var surplus *rawConn
	switch {
	case l.closing:
		surplus = raw
	case l.strangers.Len() > maxStrangers:
		surplus = l.strangers.Front().Value.(*rawConn)
	}
	l.mu.Unlock()
	if surplus != nil {
		_ = surplus.Close()
	}
	return raw
}

func (l *listener) forget(e *list.Element) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.strangers.Remove(e) // no harm when it is not there any more
}

type visitKey struct{}

// ServeHTTP answers everybody alike; a right proof only leaves a note.
func (l *listener) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if c, ok := l.gate.judge(r); ok {
		if f, h2 := r.Context().Value(visitKey{}).(*frames); h2 {
			f.proven.Store(&c)
		}
	}
	l.site.ServeHTTP(w, r)
}

// serveH2 serves one connection that speaks HTTP/2, and owns it until it ends:
// the web server closes it when this returns. h is the web server's way to l: it
// answers what net/http answers without its handler.
func (l *listener) serveH2(srv *http.Server, c *tls.Conn, h http.Handler) {
	f := newFrames(c)
	l.h2.ServeConn(f, &http2.ServeConnOpts{ //nolint:staticcheck // the only way to put frames in between
		Context:    context.WithValue(context.Background(), visitKey{}, f),
		BaseConfig: srv,
		Handler:    h,
	})
	if !f.switched.Load() {
		return
	}
	raw := c.NetConn().(*rawConn) // ours: admit made it
	if raw.gone != nil {
		raw.gone() // no longer a stranger; that it is called again on Close does no harm
	}
	t := newTunnel(c, raw)
	if err := l.confirm(f); err != nil {
		_ = t.Close()
		return
	}
	wait := time.NewTimer(switchTimeout)
	defer wait.Stop()
	select {
	case l.tunnels <- t:
		<-t.closed
	case <-wait.C:
		_ = t.Close()
	case <-l.closed:
		_ = t.Close()
	}
}

// confirm proves to the client that its proof was checked and clears the
// deadlines of the visit.
func (l *listener) confirm(f *frames) error {
	if err := f.Conn.SetDeadline(time.Now().Add(switchTimeout)); err != nil {
		return err
	}
	answer := append(l.gate.answer(*f.proven.Load()), randomBytes(confirmMin, confirmMax)...)
	if err := http2.NewFramer(f.Conn, nil).WriteData(stream, false, answer); err != nil {
		return err
	}
	return f.Conn.SetDeadline(time.Time{})
}
