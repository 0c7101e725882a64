package control

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"time"
)

// Limits of the server. Callers are local and trusted to be slow, not to be many.
const (
	maxConns      = 64
	maxBody       = 4 << 10
	maxHeader     = 8 << 10
	headerTimeout = 5 * time.Second
	readTimeout   = 10 * time.Second
	writeTimeout  = time.Minute
	idleTimeout   = time.Minute
	verbTimeout   = 30 * time.Second
	stopTimeout   = 3 * time.Second
)

// Server answers the control socket.
type Server struct {
	node     Node
	acl      access
	watchers chan struct{} // one token per stream of changes
	read     time.Duration // for a whole request
}

// NewServer makes a server for node that answers root, this process's user and
// the members of group (name or number; "": no group). It touches nothing but
// the system's group database.
func NewServer(node Node, group string) (*Server, error) {
	acl, err := newAccess(os.Getuid(), group)
	if err != nil {
		return nil, err
	}
	return &Server{node, acl, make(chan struct{}, maxWatchers), readTimeout}, nil
}

// Run serves ln until ctx ends, then lets calls that are under way finish for a
// short time and closes ln, which removes the socket. It returns nil when ctx
// ended it.
func (s *Server) Run(ctx context.Context, ln net.Listener) error {
	srv := &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       s.read,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext:       withPeer,
		ErrorLog:          log.New(io.Discard, "", 0),
	}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(newDoor(ln)) }() // ends with Shutdown or Close below
	select {
	case err := <-failed:
		return errors.Join(err, srv.Close())
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	err := srv.Shutdown(stop)
	if errors.Is(err, context.DeadlineExceeded) {
		err = srv.Close()
	}
	<-failed //nolint:errcheck // http.ErrServerClosed
	return err
}

type peerKey struct{}

// withPeer notes who a connection comes from.
func withPeer(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, peerKey{}, c.(*visit).who)
}

func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	get := func(name string, f func() any) {
		mux.HandleFunc("GET /v1/"+name, func(w http.ResponseWriter, r *http.Request) { s.show(w, r, f) })
	}
	get("status", func() any { return stamp(s.node.Status()) })
	get("circuits", func() any { return Circuits{Schema, orEmpty(s.node.Circuits())} })
	get("neighbors", func() any { return Neighbors{Schema, orEmpty(s.node.Neighbors())} })
	get("ledger", func() any { return stampLedger(s.node.Ledger()) })
	get("exits", func() any { return Exits{Schema, orEmpty(s.node.Exits())} })
	get("traffic", func() any { return stampTraffic(s.node.Traffic()) })
	get("allowed", func() any { return stampAllowed(s.node.Allowed()) })
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) { writeMetrics(w, s.node, true) })
	verb := func(name string, f func(context.Context) error) {
		mux.HandleFunc("POST /v1/"+name, func(w http.ResponseWriter, r *http.Request) { s.do(w, r, f) })
	}
	mux.HandleFunc("POST /v1/up", s.up)
	verb("newpath", s.node.NewPath)
	verb("down", s.node.Down)
	verb("lock", func(ctx context.Context) error { return s.node.Lock(ctx, true) })
	verb("unlock", func(ctx context.Context) error { return s.node.Lock(ctx, false) })
	verb("pay", s.node.Pay)
	if p, ok := s.node.(Purse); ok {
		s.servePurse(mux, p)
	}
	if h, ok := s.node.(Host); ok {
		s.serveHost(mux, h)
	}
	if c, ok := s.node.(Channeler); ok {
		s.serveChannels(mux, c)
	}
	if a, ok := s.node.(Accountant); ok {
		s.serveAccountant(mux, a)
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		refuse(w, &Error{Status: http.StatusNotFound, Text: "no such call", Hint: "are cuttle and cuttled of the same version?"})
	})
	return s.guard(mux)
}

// guard lets through only those who may call, with a bounded body.
func (s *Server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who, ok := r.Context().Value(peerKey{}).(caller)
		if !ok || who.err != nil || !s.acl.allows(who.peer) {
			refuse(w, &Error{Status: http.StatusForbidden, Text: "not permitted", Hint: s.acl.hint()})
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		next.ServeHTTP(w, r)
	})
}

func (s *Server) do(w http.ResponseWriter, r *http.Request, f func(context.Context) error) {
	if n, err := io.Copy(io.Discard, r.Body); err != nil || n > 0 {
		refuse(w, &Error{Status: http.StatusBadRequest, Text: "this call takes no body"})
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), verbTimeout)
	defer cancel()
	if err := f(ctx); err != nil {
		refuse(w, err)
		return
	}
	reply(w, http.StatusOK, Done{Schema, s.node.Status().State})
}

// stamp fills what every status has, whatever the node left out.
func stamp(st Status) Status {
	st.Schema = Schema
	st.Roles, st.Listen, st.Problems, st.Seen = orEmpty(st.Roles), orEmpty(st.Listen), orEmpty(st.Problems), orEmpty(st.Seen)
	return st
}

func stampLedger(l Ledger) Ledger {
	l.Schema = Schema
	l.Wallets, l.Accounts, l.Problems = orEmpty(l.Wallets), orEmpty(l.Accounts), orEmpty(l.Problems)
	return l
}

func stampTraffic(t Traffic) Traffic {
	t.Schema = Schema
	return t
}

func stampAllowed(a Allowed) Allowed {
	a.Schema = Schema
	a.Peers, a.Listen = orEmpty(a.Peers), orEmpty(a.Listen)
	return a
}

// orEmpty makes lists that are [] in JSON, never null.
func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

func refuse(w http.ResponseWriter, err error) {
	f := Failure{Schema: Schema, Text: err.Error(), Hint: Hint(err)}
	status := http.StatusInternalServerError
	var e *Error
	if errors.As(err, &e) && e.Status != 0 {
		status = e.Status
	}
	reply(w, status, f)
}

func reply(w http.ResponseWriter, status int, body any) {
	b, err := json.Marshal(body)
	if err != nil {
		panic("control: a type of api.go does not marshal: " + err.Error())
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n')) // the caller has gone: nothing to tell it
}
