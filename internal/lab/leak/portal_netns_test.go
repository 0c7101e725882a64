//go:build linux && netns

package leak

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"cuttle/internal/control"
	"cuttle/tun/hostnet"
	"cuttle/tun/hostnet/hostnettest"
)

// The hotspot's login page, and a page by which programs find out that there is one.
const (
	loginURL  = "http://login.hotspot.test/"
	detectURL = "http://detect.example/success.txt"
	loginPort = 8080
)

// hotspot is a network as hotels have it: until somebody logs in, its resolver
// answers every question with its own address, and its router leads all HTTP to the
// login page, which sends everybody to loginURL.
type hotspot struct {
	w      *world
	online atomic.Bool // somebody has logged in
}

func (w *world) newHotspot() *hotspot {
	w.t.Helper()
	h := &hotspot{w: w}
	w.outside.In(w.t, func() error {
		pc, err := net.ListenPacket("udp", netip.AddrPortFrom(gateway4, 53).String())
		if err != nil {
			return err
		}
		names := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(h.answer)}
		h.serve(names.ActivateAndServe, names.Shutdown)
		for address, f := range map[netip.AddrPort]http.HandlerFunc{
			netip.AddrPortFrom(gateway4, loginPort):                       h.login,
			netip.AddrPortFrom(netip.MustParseAddr(hostnettest.Far4), 80): func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "success\n") },
		} {
			ln, err := net.Listen("tcp", address.String())
			if err != nil {
				return err
			}
			s := &http.Server{Handler: f, ReadHeaderTimeout: patience}
			h.serve(func() error { return s.Serve(ln) }, s.Close)
		}
		return h.redirect()
	})
	return h
}

// serve runs a server until the end of the test.
func (h *hotspot) serve(run, end func() error) {
	done := make(chan struct{})
	go func() { _ = run(); close(done) }() // ends with end
	h.w.t.Cleanup(func() { _ = end(); <-done })
}

// redirect has the kernel lead HTTP to the login page, as `nft` would be told:
// tcp dport 80 redirect to :8080.
func (h *hotspot) redirect() error {
	var c nftables.Conn
	table := c.AddTable(&nftables.Table{Name: "hotspot", Family: nftables.TableFamilyIPv4})
	chain := c.AddChain(&nftables.Chain{Name: "arrives", Table: table, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest})
	c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{0, 80}},
		&expr.Immediate{Register: 1, Data: []byte{loginPort >> 8, loginPort & 0xff}},
		&expr.Redir{RegisterProtoMin: 1},
	}})
	return c.Flush()
}

// letThrough leads connections to come where they want to go.
func (h *hotspot) letThrough() error {
	var c nftables.Conn
	table := &nftables.Table{Name: "hotspot", Family: nftables.TableFamilyIPv4}
	c.InsertRule(&nftables.Rule{Table: table, Chain: &nftables.Chain{Name: "arrives", Table: table}, Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}})
	return c.Flush()
}

func (h *hotspot) answer(w dns.ResponseWriter, q *dns.Msg) {
	m := new(dns.Msg).SetReply(q)
	if len(q.Question) == 1 && q.Question[0].Qtype == dns.TypeA {
		a := gateway4.String()
		if h.online.Load() && q.Question[0].Name == "detect.example." {
			a = hostnettest.Far4
		}
		if rr, err := dns.NewRR(q.Question[0].Name + " 1 IN A " + a); err == nil {
			m.Answer = append(m.Answer, rr)
		}
	}
	_ = w.WriteMsg(m)
}

func (h *hotspot) login(w http.ResponseWriter, r *http.Request) {
	if "http://"+r.Host+"/" != loginURL {
		http.Redirect(w, r, loginURL, http.StatusFound)
		return
	}
	if r.Method == http.MethodPost && r.FormValue("room") == "101" {
		var err error
		h.w.outside.In(h.w.t, func() error { err = h.letThrough(); return nil })
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		h.online.Store(true)
		_, _ = io.WriteString(w, "you are online")
		return
	}
	_, _ = io.WriteString(w, "which room?")
}

// browserEnv makes this program what a person uses to log in.
const browserEnv = "CUTTLE_LEAK_BROWSER"

// browse goes to a page, fills in its form and says what came back.
func browse(url string) int {
	client := http.Client{Timeout: patience}
	page, err := client.Get(url)
	if err == nil {
		_, err = io.Copy(os.Stdout, page.Body)
		err = errors.Join(err, page.Body.Close())
	}
	if err == nil {
		page, err = client.PostForm(url, map[string][]string{"room": {"101"}})
	}
	if err == nil {
		_, err = io.Copy(os.Stdout, page.Body)
		err = errors.Join(err, page.Body.Close())
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// cuttle runs the command as a person does and gives what it prints.
func (w *world) cuttle(env []string, args ...string) string {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 2*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(w.bin, "cuttle"), append([]string{"-s", w.file("run-client/client.sock")}, args...)...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		w.t.Fatalf("cuttle %q: %v\n%s", args, err, out)
	}
	return string(out)
}

// TestPortal logs in to a hotspot by `cuttle portal` while the machine is closed, and
// wants nothing else to be let through meanwhile, and nothing at all afterwards.
func TestPortal(t *testing.T) {
	w := newWorld(t)
	w.advertise()
	h := w.newHotspot()
	if _, err := hostnet.MakeCgroup("cuttle/portal"); err != nil {
		t.Fatalf("this machine has no cgroups of version 2, which the suite needs: %v", err)
	}
	w.must(os.WriteFile(w.file("resolv.conf"), fmt.Appendf(nil, "nameserver %v\n", gateway4), 0o644))
	w.start()
	group := w.sender(true)
	let := []probe{
		{name: "70 dns of the portal's group", send: group.udp(gateway4, 53)},
		{name: "70 http of the portal's group", send: group.tcp(public4, 80), seen: syn(80)},
		{name: "70 https of the portal's group", send: group.tcp(public4, 443), seen: syn(443)},
	}
	kept := append(append(catalogue(), w.outsideProbes()...), probe{name: "71 udp of the portal's group", send: group.udp(public4, 4071)},
		probe{name: "71 quic of the portal's group", send: group.udp(public4, 443)}, probe{name: "71 dns of the group to another", send: group.udp(resolver4, 53)},
		probe{name: "71 tcp of the portal's group", send: group.tcp(public4, 4171), seen: syn(4171)},
		probe{name: "71 dns by tls of the group", send: group.tcp(resolver4, 853), seen: syn(853)},
		probe{name: "72 http of others", send: tcp(public4, 80, fromPort(ownPort+2)), seen: flowFrom(ownPort + 2)},
		probe{name: "72 https of others", send: tcp(public4, 443, fromPort(ownPort+3)), seen: flowFrom(ownPort + 3)})
	all := append(slices.Clone(kept), let...)
	w.open("hotspot, off", all)
	w.up()
	w.await(control.StateUp)
	w.alive()
	w.closed("hotspot, up", all)

	self, err := os.Executable()
	w.must(err)
	said := w.cuttle([]string{browserEnv + "=1"}, "portal", "--for", "10m", "--probe", detectURL, "--", self)
	for _, want := range []string{"A login page is in the way: " + loginURL, "which room?", "you are online"} {
		if !strings.Contains(said, want) {
			t.Errorf("the portal does not say %q: %s", want, said)
		}
	}
	if !h.online.Load() {
		t.Fatal("nobody has logged in")
	}
	w.allowed("portal open", let, kept)
	w.alive()
	if said := w.cuttle(nil, "portal", "--for", "10m", "--probe", detectURL); !strings.Contains(said, "No login page is in the way.") {
		t.Errorf("after the login the portal says %s", said)
	}
	w.cuttle(nil, "portal", "close")
	w.closed("portal closed", all)

	c, err := control.Dial(w.file("run-client/client.sock"))
	w.must(err)
	st, err := c.OpenPortal(t.Context(), 2*time.Second)
	w.must(err)
	w.must(w.daemon.Process.Signal(syscall.SIGSTOP)) // the kernel closes it alone
	time.Sleep(time.Until(time.Unix(st.Until+1, 0)))
	w.closed("portal over, daemon stopped", all)
	w.must(w.daemon.Process.Signal(syscall.SIGCONT))
	w.eventually("the portal closed in the status", func() bool { return w.host().Portal.Until == 0 })
	w.closed("portal over", all)
	w.alive()
	w.down()
	w.await(control.StateOff)
	w.end(unix.SIGTERM)
}
