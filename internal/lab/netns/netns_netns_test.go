//go:build linux && netns

package netns

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if ours, err := Inside(os.Args); ours {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(127)
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "the namespace tests need root")
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// name gives a namespace name of this test process.
func name(t *testing.T, suffix string) string {
	t.Helper()
	n := fmt.Sprintf("cuttletest-%d-%s", os.Getpid(), suffix)
	t.Cleanup(func() {
		if err := Delete(n); err != nil {
			t.Errorf("Delete: %v", err)
		}
	})
	return n
}

func create(t *testing.T, suffix string) string {
	t.Helper()
	n := name(t, suffix)
	if err := Create(n); err != nil {
		t.Fatalf("Create: %v", err)
	}
	return n
}

func TestNamespacesComeAndGo(t *testing.T) {
	before, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	n := create(t, "a")
	if err := Create(n); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Create of a name that exists = %v, want ErrExist", err)
	}
	var inside string
	err = Do(n, func() (err error) {
		inside, err = os.Readlink("/proc/thread-self/ns/net")
		return err
	})
	if err != nil || inside == before {
		t.Errorf("Do ran in %s, %v; want another namespace than %s", inside, err, before)
	}
	if after, err := os.Readlink("/proc/self/ns/net"); err != nil || after != before {
		t.Errorf("we are in %s now, want %s", after, before)
	}
	if list, err := List(n); err != nil || len(list) != 1 {
		t.Errorf("List = %v, %v; want the one", list, err)
	}
	for range 2 { // the second finds nothing
		if err := Delete(n); err != nil {
			t.Fatalf("Delete: %v", err)
		}
	}
	if _, err := os.Stat(Path(n)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the name is still there: %v", err)
	}
	if err := Do(n, func() error { return nil }); err == nil {
		t.Error("Do in a namespace that is gone gave no error")
	}
}

// star joins two nodes to a router.
func star(t *testing.T) (a, b string) {
	t.Helper()
	router := create(t, "r")
	if err := Router(router); err != nil {
		t.Fatal(err)
	}
	nodes := []string{create(t, "a"), create(t, "b")}
	for i, n := range nodes {
		p4 := func(host int) netip.Prefix {
			return netip.MustParsePrefix(fmt.Sprintf("10.77.%d.%d/24", i+1, host))
		}
		p6 := func(host int) netip.Prefix {
			return netip.MustParsePrefix(fmt.Sprintf("fd77:%d::%d/64", i+1, host))
		}
		err := Connect(End{Namespace: router, Interface: fmt.Sprintf("to-%d", i), Addresses: []netip.Prefix{p4(1), p6(1)}},
			End{Namespace: n, Interface: "phys0", Addresses: []netip.Prefix{p4(2), p6(2)}, Gateways: []netip.Addr{p4(1).Addr(), p6(1).Addr()}})
		if err != nil {
			t.Fatalf("Connect: %v", err)
		}
	}
	if err := Refuse(router, netip.MustParsePrefix("10.99.7.0/24"), false); err != nil {
		t.Fatal(err)
	}
	return nodes[0], nodes[1]
}

func TestNodesReachEachOtherThroughTheRouter(t *testing.T) {
	a, b := star(t)
	for _, addr := range []string{"10.77.2.2:4000", "[fd77:2::2]:4000"} {
		var ln net.Listener
		if err := Do(b, func() (err error) { ln, err = net.Listen("tcp", addr); return err }); err != nil {
			t.Fatalf("listen: %v", err)
		}
		done := make(chan error, 1)
		go func() { // ends when the caller has read
			c, err := ln.Accept()
			if err == nil {
				_, err = io.WriteString(c, c.RemoteAddr().String())
				err = errors.Join(err, c.Close())
			}
			done <- err
		}()
		c, err := Dial(t.Context(), a, "tcp", addr)
		if err != nil {
			t.Fatalf("dial %s: %v", addr, err)
		}
		who, err := io.ReadAll(c)
		if err = errors.Join(err, <-done, c.Close(), ln.Close()); err != nil {
			t.Error(err)
		}
		if !strings.Contains(string(who), "77") || !strings.Contains(string(who), "2") {
			t.Errorf("%s is reached from %q, want the other node's address", addr, who)
		}
	}
	if _, err := Dial(t.Context(), a, "tcp", "10.99.7.7:1"); err == nil || !strings.Contains(err.Error(), "no route to host") {
		t.Errorf("dial into a refused network = %v, want no route to host", err)
	}
	if _, err := Dial(t.Context(), a, "tcp", "web.lab:80"); err == nil {
		t.Error("Dial takes a name")
	}
}

func TestProgramsSeeTheNamespacesFiles(t *testing.T) {
	n := create(t, "a")
	host, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(n, "resolv.conf", "nameserver 10.99.0.2\n"); err != nil {
		t.Fatal(err)
	}
	// What one program writes, the next one sees, and the host does not.
	write := Command(t.Context(), n, "/bin/sh", "-c", "cat /etc/resolv.conf && echo 'nameserver 10.1.1.1' > /etc/resolv.conf")
	out, err := write.CombinedOutput()
	if err != nil || string(out) != "nameserver 10.99.0.2\n" {
		t.Fatalf("the program sees %q, %v", out, err)
	}
	out, err = Command(t.Context(), n, "/bin/cat", "/etc/resolv.conf").CombinedOutput()
	if err != nil || string(out) != "nameserver 10.1.1.1\n" {
		t.Errorf("the next program sees %q, %v", out, err)
	}
	if now, err := os.ReadFile("/etc/resolv.conf"); err != nil || string(now) != string(host) {
		t.Errorf("the host's file is %q now, %v", now, err)
	}
}

func TestCommandRunsInsideAndKeepsItsNumber(t *testing.T) {
	n := create(t, "a")
	cmd := Command(t.Context(), n, "/bin/sh", "-c", "echo $$; readlink /proc/self/ns/net; cat /proc/net/dev; exit 7")
	var out strings.Builder
	cmd.Stdout = &out
	err := cmd.Run()
	if cmd.ProcessState.ExitCode() != 7 {
		t.Errorf("exit status %d (%v), want the program's own, 7", cmd.ProcessState.ExitCode(), err)
	}
	pid, rest, _ := strings.Cut(out.String(), "\n")
	if pid != fmt.Sprint(cmd.ProcessState.Pid()) {
		t.Errorf("the program is process %s, want %d", pid, cmd.ProcessState.Pid())
	}
	if host, err := os.Readlink("/proc/self/ns/net"); err != nil || strings.HasPrefix(rest, host) {
		t.Errorf("the program runs in our own namespace %s", host)
	}
	for _, bad := range [][]string{{"/nonexistent"}, {"no-such-program"}} {
		if err := Command(context.Background(), n, bad...).Run(); err == nil {
			t.Errorf("%v gave no error", bad)
		}
	}
}
