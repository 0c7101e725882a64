//go:build linux && netns

package hostnet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"

	"cuttle/tun/hostnet/hostnettest"
)

const busConfig = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path=%s</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_type="method_call"/><allow send_type="signal"/>
<allow send_requested_reply="true" send_type="method_return"/><allow send_requested_reply="true" send_type="error"/>
<allow receive_type="method_call"/><allow receive_type="method_return"/><allow receive_type="error"/><allow receive_type="signal"/></policy></busconfig>`

// systemBus runs a real dbus-daemon as the test's system bus.
func systemBus(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	socket, config := filepath.Join(dir, "bus"), filepath.Join(dir, "bus.conf")
	if err := os.WriteFile(config, fmt.Appendf(nil, busConfig, socket), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("dbus-daemon", "--config-file="+config, "--nofork", "--print-address")
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatalf("this test needs dbus-daemon (Debian package dbus): %v", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if _, err := out.Read(make([]byte, 256)); err != nil {
		t.Fatalf("dbus-daemon: %v", err)
	}
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+socket)
}

// resolverIs puts a file in the place of the system's resolver file.
func resolverIs(t *testing.T, content string) {
	t.Helper()
	source := filepath.Join(t.TempDir(), "resolv.conf")
	if err := errors.Join(os.WriteFile(source, []byte(content), 0o644), unix.Mount(source, systemResolver, "", unix.MS_BIND, "")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(systemResolver, 0); err != nil {
			t.Error(err)
		}
	})
}

// resolve1 is the part of org.freedesktop.resolve1 that sets links up, as its
// documentation says: what is set for a link stays until RevertLink.
type resolve1 struct {
	mu     sync.Mutex
	links  map[int32]map[string]any
	denied bool
	flush  int
}

func (r *resolve1) set(index int32, key string, value any) *dbus.Error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.denied {
		return dbus.NewError("org.freedesktop.DBus.Error.InteractiveAuthorizationRequired", []any{"no"})
	}
	if r.links[index] == nil {
		r.links[index] = make(map[string]any)
	}
	r.links[index][key] = value
	return nil
}

func (r *resolve1) SetLinkDNS(i int32, a []linkAddress) *dbus.Error    { return r.set(i, "DNS", a) }
func (r *resolve1) SetLinkDomains(i int32, d []linkDomain) *dbus.Error { return r.set(i, "Domains", d) }
func (r *resolve1) SetLinkDefaultRoute(i int32, on bool) *dbus.Error {
	return r.set(i, "DefaultRoute", on)
}
func (r *resolve1) SetLinkLLMNR(i int32, s string) *dbus.Error { return r.set(i, "LLMNR", s) }
func (r *resolve1) SetLinkMulticastDNS(i int32, s string) *dbus.Error {
	return r.set(i, "MulticastDNS", s)
}
func (r *resolve1) SetLinkDNSSEC(i int32, s string) *dbus.Error { return r.set(i, "DNSSEC", s) }
func (r *resolve1) FlushCaches() *dbus.Error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.flush++
	return nil
}

func (r *resolve1) RevertLink(i int32) *dbus.Error {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.links, i)
	return nil
}

func (r *resolve1) GetLink(i int32) (dbus.ObjectPath, *dbus.Error) {
	return dbus.ObjectPath(fmt.Sprintf("%s/link/_%d", resolvedPath, i)), nil
}

// Get is of the links' properties; which link it is about is in the message.
func (r *resolve1) Get(m dbus.Message, _, name string) (dbus.Variant, *dbus.Error) {
	path, _ := m.Headers[dbus.FieldPath].Value().(dbus.ObjectPath)
	var i int32
	if _, err := fmt.Sscanf(string(path), resolvedPath+"/link/_%d", &i); err != nil {
		return dbus.Variant{}, dbus.MakeFailedError(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if v, ok := r.links[i][name]; ok {
		return dbus.MakeVariant(v), nil
	}
	return dbus.MakeVariant([]linkAddress{}), nil
}

// servers tells what the links have, in words.
func (r *resolve1) servers() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return fmt.Sprint(r.links)
}

// serve answers on the bus until stop.
func serve(t *testing.T, name string, export func(*dbus.Conn) error) (stop func()) {
	t.Helper()
	c, err := dbus.ConnectSystemBus()
	if err == nil {
		err = export(c)
	}
	var reply dbus.RequestNameReply
	if err == nil {
		reply, err = c.RequestName(name, dbus.NameFlagDoNotQueue)
	}
	if err != nil || reply != dbus.RequestNameReplyPrimaryOwner {
		t.Fatalf("serve %s: %v (%v)", name, err, reply)
	}
	stop = sync.OnceFunc(func() { _ = c.Close() })
	t.Cleanup(stop)
	return stop
}

func (r *resolve1) export(c *dbus.Conn) error {
	return errors.Join(c.Export(r, resolvedPath, resolvedManager), c.ExportSubtree(r, resolvedPath+"/link", "org.freedesktop.DBus.Properties"))
}

func wantPlan(t *testing.T, kind Kind) Plan {
	t.Helper()
	p := planFor(t, Config{Device: "cuttle0", MTU: 1500, ResolvConf: systemResolver})
	for _, s := range p.Steps {
		if s.Kind == kind {
			return p
		}
	}
	t.Fatalf("the plan has no step of kind %q:\n%s", kind, p)
	return p
}

func TestResolved(t *testing.T) {
	hostnettest.NewOutside(t)
	systemBus(t)
	resolverIs(t, "# managed by systemd-resolved\nnameserver 127.0.0.53\n")
	openTUN(t)
	if p := planFor(t, Config{Device: "cuttle0", ResolvConf: systemResolver}); !strings.Contains(p.String(), "write /etc/resolv.conf") {
		t.Errorf("nobody answers as systemd-resolved, and the file is left alone:\n%s", p)
	}
	r := &resolve1{links: make(map[int32]map[string]any)}
	stop := serve(t, resolvedName, r.export)
	before, none := dump(t, systemResolver), r.servers()
	p := wantPlan(t, ResolvedLink)
	state := t.TempDir()
	a, err := Apply(state, p)
	if err != nil {
		t.Fatal(err)
	}
	told := r.servers()
	for _, want := range []string{"[10 255 255 53]", "{. true}", "DefaultRoute:true", "LLMNR:no", "MulticastDNS:no", "DNSSEC:no"} {
		if !strings.Contains(told, want) {
			t.Errorf("systemd-resolved was told %s, which lacks %s", told, want)
		}
	}
	if r.flush == 0 {
		t.Error("old answers are still in systemd-resolved's cache")
	}

	// It forgets everything when it is restarted.
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Watch(ctx, func(string) {}) }() // ends with ctx
	stop()
	again := &resolve1{links: make(map[int32]map[string]any)}
	serve(t, resolvedName, again.export)
	await(t, "systemd-resolved to be told again", func() bool { return again.servers() == told })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}

	// After a crash the next process takes everything back.
	if err := a.Leave(); err != nil {
		t.Fatal(err)
	}
	if did, err := Recover(state); err != nil || !did {
		t.Fatalf("Recover = %v, %v", did, err)
	}
	if got := again.servers(); got != none {
		t.Errorf("after recovery systemd-resolved has %s, want %s", got, none)
	}
	if d := difference(before, dump(t, systemResolver)); d != "" {
		t.Errorf("host differs:\n%s", d)
	}

	again.denied = true
	if a, err := Apply(state, p); err == nil || !strings.Contains(err.Error(), "polkit") {
		t.Errorf("without the right, Apply = %v, want an error that names polkit", err)
	} else if err := a.Revert(); err != nil {
		t.Error(err)
	}
}

func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); !holds(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// manager is NetworkManager's property with the global configuration.
type manager struct {
	mu  sync.Mutex
	now dbus.Variant
}

func (m *manager) Get(_, _ string) (dbus.Variant, *dbus.Error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.now, nil
}

func (m *manager) Set(_, _ string, v dbus.Variant) *dbus.Error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now = v
	return nil
}

func (m *manager) read(t *testing.T) globalDNS {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	g, err := fromVariants(m.now)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestNetworkManager(t *testing.T) {
	hostnettest.NewOutside(t)
	systemBus(t)
	resolverIs(t, "# Generated by NetworkManager\nnameserver 192.0.2.1\n")
	openTUN(t)
	for name, old := range map[string]globalDNS{
		"nothing": {},
		"some": {Searches: []string{"example.org"}, Options: []string{"edns0"},
			Domains: map[string]domainDNS{"*": {Servers: []string{"192.0.2.7"}}, "corp.example": {Servers: []string{"192.0.2.8"}, Options: []string{"x"}}}},
	} {
		t.Run(name, func(t *testing.T) {
			m := &manager{now: dbus.MakeVariant(old.variants())}
			stop := serve(t, managerName, func(c *dbus.Conn) error { return c.Export(m, managerPath, "org.freedesktop.DBus.Properties") })
			state := t.TempDir()
			a, err := Apply(state, wantPlan(t, ManagerDNS))
			if err != nil {
				t.Fatal(err)
			}
			if got := m.read(t).Domains["*"].Servers; len(got) != 2 || got[0] != "10.255.255.53" {
				t.Errorf("NetworkManager has name servers %q", got)
			}
			if err := a.Leave(); err != nil { // a crash
				t.Fatal(err)
			}
			if _, err := Recover(state); err != nil {
				t.Fatal(err)
			}
			if got := m.read(t); !reflect.DeepEqual(got, old) {
				t.Errorf("NetworkManager has %+v afterwards, want %+v", got, old)
			}
			stop()
		})
	}
}

// TestResolvconf uses a program that keeps sources as files, as resolvconf does.
func TestResolvconf(t *testing.T) {
	hostnettest.NewOutside(t)
	systemBus(t)
	resolverIs(t, "# Generated by resolvconf\nnameserver 192.0.2.1\n")
	openTUN(t)
	dir := t.TempDir()
	script := "#!/bin/sh\ncase $1 in -a) cat > " + dir + "/source-$2;; -d) rm -f " + dir + "/source-$2;; *) exit 1;; esac\n"
	if err := os.WriteFile(filepath.Join(dir, "resolvconf"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	a, err := Apply(t.TempDir(), wantPlan(t, ResolvconfSource))
	if err != nil {
		t.Fatal(err)
	}
	source := filepath.Join(dir, "source-cuttle0.cuttle")
	if b, err := os.ReadFile(source); err != nil || !strings.Contains(string(b), "nameserver 10.255.255.53\n") {
		t.Errorf("resolvconf was given %q (%v)", b, err)
	}
	if err := a.Revert(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(source); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the source is still there (%v)", err)
	}
}
