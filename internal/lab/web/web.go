// Package web is the lab's outside world: one process with a web server (HTTP
// and HTTPS), a DNS server and an echo service, over IPv4 and IPv6, standing
// where the public Internet would stand behind the exits.
//
// It serves reproducible bytes and counts what it is sent; it keeps no files
// and no logs, follows no redirect and resolves no name but its own. cuttle-lab
// starts it inside the namespace cuttle-web; tests start it on loopback.
//
// Pages: /bytes/N (N bytes, their SHA-256 in X-SHA256; the same N gives the same
// bytes), POST /upload (answers {"bytes","sha256"}), POST /sink (counts
// only: {"bytes"}, with ?skip=MS&window=MS also {"window"}, the bytes that came
// then, and it does not wait for more: some tunnels hold a minute's worth), /ip (the caller's address), /delay/MS (waits).
//
// Server is safe for use by many connections; the only shared state is the
// table of digests, under a mutex of its own.
package web

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/errgroup"
)

// Config says where the server listens. A port of 0 switches a service off.
type Config struct {
	Addresses []netip.Addr // every service listens on each
	HTTP      uint16
	HTTPS     uint16
	DNS       uint16 // UDP and TCP
	Echo      uint16 // UDP and TCP
	Zone      Zone
	TLS       tls.Certificate // for HTTPS
}

// Server is everything that listens. Use New and Run.
type Server struct {
	cfg     Config
	handler http.Handler
	serve   []func() error // one per listener, each ends when its listener is closed
	close   []func() error
}

// New opens every socket, so that Run can say ready at once.
func New(ctx context.Context, cfg Config) (*Server, error) {
	s := &Server{cfg: cfg, handler: Handler()}
	for _, a := range cfg.Addresses {
		if err := s.listen(ctx, a); err != nil {
			return nil, errors.Join(err, s.shut())
		}
	}
	return s, nil
}

// Run serves until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, serve := range s.serve {
		g.Go(func() error { // ends when shut closes its socket
			err := serve()
			if ctx.Err() != nil || errors.Is(err, http.ErrServerClosed) {
				err = nil // we have closed it
			}
			return err
		})
	}
	g.Go(func() error { // ends with ctx, and so with the first failure
		<-ctx.Done()
		return s.shut()
	})
	return g.Wait()
}

func (s *Server) shut() error {
	var errs []error
	for _, c := range s.close {
		if err := c(); err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (s *Server) listen(ctx context.Context, a netip.Addr) error {
	var lc net.ListenConfig
	tcp := func(port uint16) (net.Listener, error) {
		return lc.Listen(ctx, "tcp", netip.AddrPortFrom(a, port).String())
	}
	udp := func(port uint16) (net.PacketConn, error) {
		return lc.ListenPacket(ctx, "udp", netip.AddrPortFrom(a, port).String())
	}
	if s.cfg.HTTP != 0 {
		ln, err := tcp(s.cfg.HTTP)
		if err != nil {
			return fmt.Errorf("listen for http: %w", err)
		}
		s.addHTTP(ln, nil)
	}
	if s.cfg.HTTPS != 0 {
		ln, err := tcp(s.cfg.HTTPS)
		if err != nil {
			return fmt.Errorf("listen for https: %w", err)
		}
		s.addHTTP(ln, &s.cfg.TLS)
	}
	if s.cfg.DNS != 0 {
		pc, err := udp(s.cfg.DNS)
		if err != nil {
			return fmt.Errorf("listen for dns: %w", err)
		}
		s.addDNS(&dns.Server{PacketConn: pc}, pc)
		ln, err := tcp(s.cfg.DNS)
		if err != nil {
			return fmt.Errorf("listen for dns: %w", err)
		}
		s.addDNS(&dns.Server{Listener: ln}, ln)
	}
	if s.cfg.Echo != 0 {
		pc, err := udp(s.cfg.Echo)
		if err != nil {
			return fmt.Errorf("listen for echo: %w", err)
		}
		s.add(pc, func() error { return echoPackets(pc) })
		ln, err := tcp(s.cfg.Echo)
		if err != nil {
			return fmt.Errorf("listen for echo: %w", err)
		}
		e := &echoServer{}
		s.serve = append(s.serve, func() error { return e.serve(ln) })
		s.close = append(s.close, func() error { return e.close(ln) })
	}
	return nil
}

func (s *Server) add(c io.Closer, serve func() error) {
	s.serve = append(s.serve, serve)
	s.close = append(s.close, c.Close)
}

func (s *Server) addHTTP(ln net.Listener, cert *tls.Certificate) {
	h := &http.Server{Handler: s.handler, ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 64 << 10}
	s.serve = append(s.serve, func() error {
		if cert == nil {
			return h.Serve(ln)
		}
		h.TLSConfig = &tls.Config{Certificates: []tls.Certificate{*cert}, MinVersion: tls.VersionTLS12}
		return h.ServeTLS(ln, "", "")
	})
	s.close = append(s.close, h.Close, ln.Close)
}

func (s *Server) addDNS(d *dns.Server, c io.Closer) {
	d.Handler = s.cfg.Zone
	s.serve = append(s.serve, d.ActivateAndServe)
	s.close = append(s.close, c.Close)
}

// Handler is the web server alone, for those who listen themselves.
func Handler() http.Handler {
	mux := http.NewServeMux()
	known := new(digests)
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "<!doctype html><title>web.lab</title><p>The lab's outside server.</p>\n")
	})
	mux.HandleFunc("GET /bytes/{n}", known.serve)
	mux.HandleFunc("POST /upload", upload)
	mux.HandleFunc("POST /sink", sink)
	mux.HandleFunc("GET /ip", func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.RemoteAddr)
		if err != nil {
			http.Error(w, "no address", http.StatusInternalServerError)
			return
		}
		_, _ = fmt.Fprintln(w, host)
	})
	mux.HandleFunc("GET /delay/{ms}", delay)
	return mux
}

func delay(w http.ResponseWriter, r *http.Request) {
	ms, err := strconv.ParseUint(r.PathValue("ms"), 10, 32)
	if err != nil || ms > 600_000 {
		http.Error(w, "want milliseconds, at most 600000", http.StatusBadRequest)
		return
	}
	t := time.NewTimer(time.Duration(ms) * time.Millisecond)
	defer t.Stop()
	select {
	case <-t.C:
		_, _ = fmt.Fprintln(w, ms)
	case <-r.Context().Done():
	}
}
