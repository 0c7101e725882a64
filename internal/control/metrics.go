package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// metricsType is the text format of Prometheus, version 0.0.4.
const metricsType = "text/plain; version=0.0.4; charset=utf-8"

// exposition writes the text format: HELP, TYPE, then samples.
type exposition struct {
	strings.Builder
}

func (e *exposition) family(name, kind, help string) {
	fmt.Fprintf(e, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
}

// sample writes one line; labels are names and values in turn.
func (e *exposition) sample(name string, value float64, labels ...string) {
	e.WriteString(name)
	for i := 0; i+1 < len(labels); i += 2 {
		open := ","
		if i == 0 {
			open = "{"
		}
		fmt.Fprintf(e, `%s%s="%s"`, open, labels[i], labelEscape.Replace(labels[i+1]))
	}
	if len(labels) > 0 {
		e.WriteByte('}')
	}
	fmt.Fprintf(e, " %s\n", strconv.FormatFloat(value, 'g', -1, 64))
}

func (e *exposition) gauge(name, help string, value float64) {
	e.family(name, "gauge", help)
	e.sample(name, value)
}

func (e *exposition) counter(name, help string, value float64) {
	e.family(name, "counter", help)
	e.sample(name, value)
}

var labelEscape = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

// metrics renders what docs/guides/metrics.md lists. named tells whether
// neighbors, versions and amounts of money may be told; nothing is ever told by
// destination.
func metrics(node Node, named bool) string {
	st, all, t := node.Status(), node.Neighbors(), node.Traffic()
	e := new(exposition)
	e.family("cuttle_state", "gauge", "1 for the state the client is in.")
	for _, s := range []State{StateOff, StateConnecting, StateUp, StateBlocked, StateDraining} {
		e.sample("cuttle_state", one(st.State == s), "state", string(s))
	}
	e.gauge("cuttle_locked", "1 while the lock is on.", one(st.Locked))
	e.gauge("cuttle_start_time_seconds", "When the daemon started, Unix time.", float64(st.Started))
	e.gauge("cuttle_problems", "Problems that status shows.", float64(len(st.Problems)))
	e.gauge("cuttle_links", "Links that are up.", float64(st.Links))
	e.family("cuttle_circuits", "gauge", "Open circuits: our own, and others' that pass through.")
	e.sample("cuttle_circuits", float64(st.Circuits), "whose", "own")
	e.sample("cuttle_circuits", float64(st.Relayed), "whose", "relayed")
	e.family("cuttle_tun_bytes_total", "counter", "Bytes through the interface that captures this machine's traffic.")
	e.sample("cuttle_tun_bytes_total", float64(t.Sent), "direction", "sent")
	e.sample("cuttle_tun_bytes_total", float64(t.Received), "direction", "received")
	e.family("cuttle_neighbors", "gauge", "Neighbors by state of their link.")
	count := map[LinkState]int{}
	for _, n := range all {
		count[n.State]++
	}
	for _, s := range []LinkState{LinkUp, LinkConnecting, LinkWaiting, LinkRefused} {
		e.sample("cuttle_neighbors", float64(count[s]), "state", string(s))
	}
	if named {
		e.neighbors(all)
		e.ledger(node.Ledger())
		e.family("cuttle_build_info", "gauge", "1, with the version.")
		e.sample("cuttle_build_info", 1, "version", st.Version, "go", runtime.Version())
	}
	e.process()
	return e.String()
}

func (e *exposition) neighbors(all []Neighbor) {
	e.family("cuttle_link_cells_total", "counter", "Cells on the link to a neighbor since it came up, by who pays.")
	for _, n := range all {
		for _, c := range n.Cells {
			e.sample("cuttle_link_cells_total", float64(c.Sent), "neighbor", n.Node, "payer", c.Payer, "direction", "sent")
			e.sample("cuttle_link_cells_total", float64(c.Received), "neighbor", n.Node, "payer", c.Payer, "direction", "received")
		}
	}
	e.family("cuttle_link_rtt_seconds", "gauge", "Round-trip time of the link to a neighbor.")
	for _, n := range all {
		if n.RTT > 0 {
			e.sample("cuttle_link_rtt_seconds", n.RTT/1000, "neighbor", n.Node)
		}
	}
	e.family("cuttle_link_circuits", "gauge", "Circuits on the link to a neighbor.")
	for _, n := range all {
		e.sample("cuttle_link_circuits", float64(n.Circuits), "neighbor", n.Node)
	}
}

func (e *exposition) ledger(l Ledger) {
	if l.Mode == "" || l.Mode == "none" {
		return
	}
	e.gauge("cuttle_chain_up", "1 while the chain answers.", one(l.ChainOK))
	e.gauge("cuttle_chain_block", "Newest block that was seen.", float64(l.Block))
	for _, m := range []struct {
		name, help string
		of         func(Account) string
	}{
		{"cuttle_owed_tokens", "What we owe a neighbor now.", func(a Account) string { return a.Owed }},
		{"cuttle_due_tokens", "What a neighbor owes us now.", func(a Account) string { return a.Due }},
	} {
		e.family(m.name, "gauge", m.help)
		for _, a := range l.Accounts {
			if v, err := strconv.ParseFloat(m.of(a), 64); err == nil {
				e.sample(m.name, v, "neighbor", a.Node)
			}
		}
	}
}

func (e *exposition) process() {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	e.gauge("cuttle_goroutines", "Goroutines of the daemon.", float64(runtime.NumGoroutine()))
	e.gauge("cuttle_heap_bytes", "Bytes of the heap in use.", float64(m.HeapAlloc))
	e.gauge("cuttle_memory_bytes", "Bytes that the Go runtime has from the system.", float64(m.Sys-m.HeapReleased))
	e.counter("cuttle_gc_seconds_total", "Seconds for which garbage collection has stopped the daemon.", float64(m.PauseTotalNs)/1e9)
}

func one(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func writeMetrics(w http.ResponseWriter, node Node, named bool) {
	w.Header().Set("Content-Type", metricsType)
	_, _ = io.WriteString(w, metrics(node, named)) // the caller has gone: nothing to tell it
}

// ServeMetrics answers GET /metrics on ln, which must listen on a loopback
// address, until ctx ends; it closes ln. Anybody on this machine may ask, so
// neighbors, money and versions are left out. Requests must name the address or
// localhost as their host, so that no web page reaches it under a name of its own.
func ServeMetrics(ctx context.Context, ln net.Listener, node Node) error {
	at, err := netip.ParseAddrPort(ln.Addr().String())
	if err != nil || !at.Addr().IsLoopback() {
		return errors.Join(errors.New("metrics: want a loopback address"), ln.Close())
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		if host, err := netip.ParseAddrPort(r.Host); err != nil && r.Host != fmt.Sprintf("localhost:%d", at.Port()) || err == nil && host != at {
			http.Error(w, "wrong host", http.StatusForbidden)
			return
		}
		writeMetrics(w, node, false)
	})
	srv := &http.Server{
		Handler: mux, ReadHeaderTimeout: headerTimeout, ReadTimeout: readTimeout, WriteTimeout: readTimeout,
		IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader, ErrorLog: log.New(io.Discard, "", 0),
	}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(newDoor(ln)) }() // ends with Close below
	select {
	case err := <-failed:
		return errors.Join(err, srv.Close())
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := srv.Shutdown(stop); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	err = srv.Close()
	<-failed //nolint:errcheck // http.ErrServerClosed
	return err
}
