package node

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	mrand "math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"cuttle/internal/config"
	"cuttle/internal/control"
	"cuttle/relay/circuit"
	"cuttle/stack"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// network is some nodes of this process that speak over loopback.
type network struct {
	t     *testing.T
	dir   string
	names []string
	nodes map[string]*Node
	cfgs  map[string]*config.Config
	stop  map[string]func()
	logs  *lockedBuffer
	log   map[string]*lockedBuffer // of each node, the same lines
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// freePort tries one port after the other, so that it gives none twice.
var (
	firstPort  = mrand.Uint32N(20_000)
	portsTried atomic.Uint32
)

// freePort is below the ports that the system gives to connections, which would
// otherwise now and then take it before the node does.
func freePort(t *testing.T) int {
	t.Helper()
	for range 100 {
		port := 10_000 + int(firstPort+portsTried.Add(1))%20_000
		ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			_ = ln.Close()
			return port
		}
	}
	t.Fatal("no port is free")
	return 0
}

// newNetwork runs a client c and relays r1..r3, the last an exit, in a chain of
// neighbors c-r1-r2-r3.
func newNetwork(t *testing.T, mask string) *network {
	return newMesh(t, mask, []string{"c", "r1", "r2", "r3"}, [][2]string{{"c", "r1"}, {"r1", "r2"}, {"r2", "r3"}}, "r3")
}

// newMesh runs the nodes of names, the first the client and those of exits exits,
// with these links; the first of each opens it.
func newMesh(t *testing.T, mask string, names []string, links [][2]string, exits ...string) *network {
	return newMeshWith(t, mask, names, links, nil, exits...)
}

// newMeshWith has more in the table [exit] of some exits.
func newMeshWith(t *testing.T, mask string, names []string, links [][2]string, more map[string]string, exits ...string) *network {
	nw := &network{
		t: t, dir: t.TempDir(), names: names, nodes: map[string]*Node{}, cfgs: map[string]*config.Config{},
		stop: map[string]func(){}, logs: &lockedBuffer{}, log: map[string]*lockedBuffer{},
	}
	ids, ports := map[string]string{}, map[string]int{}
	for _, name := range nw.names {
		id, err := LoadIdentity(filepath.Join(nw.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		ids[name], ports[name], nw.log[name] = id.ID.String(), freePort(t), &lockedBuffer{}
	}
	var records strings.Builder
	for _, name := range nw.names {
		text := fmt.Sprintf("[node]\nstate = %q\ncontrol = %q\nmap = %q\nrelay = %v\nexit = %v\naccept_clients = true\n",
			filepath.Join(nw.dir, name), filepath.Join(nw.dir, name, "c.sock"), filepath.Join(nw.dir, "map"), name != "c", slices.Contains(exits, name))
		if slices.Contains(exits, name) {
			text += "[exit]\nallow = [\"127.0.0.0/8\"]\nresolver = \"127.0.0.1:9\"\n" + more[name] + "\n"
		}
		if name != "c" {
			text += fmt.Sprintf("[[listen]]\nmask = %q\naddress = \"127.0.0.1:%d\"\n", mask, ports[name])
		}
		for _, l := range links {
			switch {
			case l[1] == name && l[0] != "c":
				text += fmt.Sprintf("[[neighbor]]\ndescriptor = \"cuttle://%s\"\n", ids[l[0]])
			case l[0] == name:
				text += fmt.Sprintf("[[neighbor]]\ndescriptor = \"cuttle://%s@127.0.0.1:%d?mask=%s\"\n", ids[l[1]], ports[l[1]], mask)
			}
		}
		cfg, err := config.Parse([]byte(text))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		nw.cfgs[name] = cfg
		if name != "c" {
			line, err := RecordLine(cfg)
			if err != nil {
				t.Fatal(err)
			}
			records.WriteString(line + "\n")
		}
	}
	if err := os.WriteFile(filepath.Join(nw.dir, "map"), []byte(records.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range nw.names {
		nw.start(name)
	}
	return nw
}

func (nw *network) start(name string) {
	nw.t.Helper()
	n, err := New(nw.cfgs[name], slog.New(slog.NewTextHandler(io.MultiWriter(nw.logs, nw.log[name]), &slog.HandlerOptions{Level: slog.LevelDebug})))
	if err != nil {
		nw.t.Fatalf("%s: %v", name, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	nw.nodes[name] = n
	nw.stop[name] = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			nw.t.Errorf("%s: %v", name, err)
		}
	})
	nw.t.Cleanup(nw.stop[name])
}

// pool runs a circuit pool of the client, without a TUN.
func (nw *network) pool() *onward {
	nw.t.Helper()
	c := nw.nodes["c"].client
	p, err := c.newPool()
	if err != nil {
		nw.t.Fatal(err)
	}
	c.onward.pool.Store(p)
	c.mu.Lock()
	c.pool = p
	c.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	nw.t.Cleanup(func() {
		c.onward.pool.Store(nil)
		c.onward.end()
		cancel()
		<-done
		c.onward.ending.Wait()
	})
	return c.onward
}

func flowTo(addr string) stack.Flow {
	return stack.NewFlow(netip.MustParseAddrPort("10.0.0.1:1"), netip.MustParseAddrPort(addr))
}

// TestThreeHops carries a request over three hops. Nobody's log of all levels
// names the destination or, until it has ended, a node but itself and its neighbors.
func TestThreeHops(t *testing.T) {
	for _, mask := range []string{"plain", "https"} {
		t.Run(mask, func(t *testing.T) {
			body := make([]byte, 8<<20)
			_, _ = rand.Read(body)
			web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				got, err := io.ReadAll(r.Body)
				if err != nil || !bytes.Equal(got, body) {
					w.WriteHeader(http.StatusBadRequest)
				}
				_, _ = w.Write(body)
			}))
			defer web.Close()
			var nw *network
			t.Cleanup(func() { // when all nodes have ended
				if nw == nil {
					return
				}
				for of, named := range map[string]string{"c": "c r1", "r1": "r1 r2", "r2": "r1 r2 r3", "r3": "r2 r3"} {
					for name, n := range nw.nodes { // r1 calls c a client
						id, log := n.id.ID, nw.log[of].String()
						if in := strings.Contains(log, id.String()[:10]) || strings.Contains(log, fmt.Sprintf("%x", id[:5])); in != strings.Contains(named, name) {
							t.Errorf("the log of %s names %s: %v\n%s", of, name, in, log)
						}
					}
				}
			})
			nw = newNetwork(t, mask)
			o := nw.pool()
			tr := &http.Transport{DialContext: o.DialContext}
			defer tr.CloseIdleConnections()
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, web.URL+"/canary-path", bytes.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			resp, err := (&http.Client{Transport: tr}).Do(req)
			if err != nil {
				t.Fatalf("%v\n%s", err, nw.logs)
			}
			defer resp.Body.Close()
			got, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != http.StatusOK || !bytes.Equal(got, body) {
				t.Fatalf("status %d, %d bytes, err %v; want 200 and the %d bytes sent", resp.StatusCode, len(got), err, len(body))
			}
			circuits := nw.nodes["c"].Circuits()
			if len(circuits) == 0 || len(circuits[0].Hops) != 3 || circuits[0].Exit != nw.nodes["r3"].id.ID.String() {
				t.Errorf("circuits = %+v, want one of three hops that ends at r3", circuits)
			}
			port := regexp.MustCompile(`\b` + web.URL[strings.LastIndex(web.URL, ":")+1:] + `\b`) // its digits are in a key now and then
			if port.MatchString(nw.logs.String()) || strings.Contains(nw.logs.String(), "canary") {
				t.Error("a log names the destination")
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	nw := newNetwork(t, "plain")
	o := nw.pool()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for _, tc := range []struct {
		to   string
		want error
	}{
		{fmt.Sprintf("127.0.0.1:%d", freePort(t)), stack.ErrRefused},
		{"192.168.1.1:80", stack.ErrProhibited},
		{"169.254.169.254:80", stack.ErrProhibited},
		{"[::1]:80", stack.ErrProhibited},
	} {
		if _, err := o.DialTCP(ctx, flowTo(tc.to)); !errors.Is(err, tc.want) {
			t.Errorf("connect to %s: %v, want %v", tc.to, err, tc.want)
		}
	}
}

func TestNotAClient(t *testing.T) {
	nw := newNetwork(t, "plain")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	k, _, err := nw.pool().getFor(ctx, circuit.Want{})
	if err != nil {
		t.Fatal(err)
	}
	k.done() // r1 is there
	c, err := control.Dial(filepath.Join(nw.dir, "r1", "c.sock"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Up(ctx); err == nil || !strings.Contains(control.Hint(err), "client.enabled") {
		t.Errorf("up on a relay: %v, want an error whose hint names client.enabled", err)
	}
	st, err := c.Status(ctx)
	if err != nil || st.State != control.StateOff || len(st.Roles) != 1 || st.Roles[0] != "relay" {
		t.Errorf("status of a relay: %+v, %v", st, err)
	}
}
