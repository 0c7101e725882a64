package hostnet

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// deputyAt runs a deputy for path and returns its socket.
func deputyAt(t *testing.T, path, stateDir string) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { // ends with the listener
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			_ = Deputy(conn, path, stateDir) // the asker hears it
			_ = conn.Close()
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		wg.Wait()
	})
	return socket
}

var errWhy = errors.New("read-only")

func TestDeputyRestoresExactly(t *testing.T) {
	const ours, ours2 = "# a comment\nnameserver 10.1.1.1\n", "nameserver fd00::1\n"
	for _, was := range []struct {
		name string
		make func(path string) error
	}{
		{"a file", func(p string) error { return os.WriteFile(p, []byte("nameserver 192.0.2.1\n"), 0o640) }},
		{"a link", func(p string) error { return os.Symlink("../somewhere/stub.conf", p) }},
		{"nothing", func(string) error { return nil }},
	} {
		t.Run(was.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "resolv.conf")
			if err := was.make(path); err != nil {
				t.Fatal(err)
			}
			before, gone, err := readFile(path)
			if err != nil {
				t.Fatal(err)
			}
			socket := deputyAt(t, path, t.TempDir())
			for _, content := range []string{ours, ours, ours2} { // a daemon that died asks again
				if err := askDeputy(socket, request{Write: content}, errWhy); err != nil {
					t.Fatal(err)
				}
				if b, err := os.ReadFile(path); err != nil || string(b) != content {
					t.Fatalf("file %q, %v; want %q", b, err, content)
				}
			}
			for range 2 { // the second finds nothing to do
				if err := askDeputy(socket, request{Restore: true}, errWhy); err != nil {
					t.Fatal(err)
				}
			}
			after, goneAfter, err := readFile(path)
			if err != nil || gone != goneAfter || !gone && (after.Target != before.Target || string(after.Content) != string(before.Content) || after.Mode != before.Mode) {
				t.Errorf("after restoring: %+v (gone %v, %v), want %+v", after, goneAfter, err, before)
			}
		})
	}
}

func TestDeputyLeavesOthersAlone(t *testing.T) {
	path, state := filepath.Join(t.TempDir(), "resolv.conf"), t.TempDir()
	socket := deputyAt(t, path, state)
	if err := askDeputy(socket, request{Write: "nameserver 10.1.1.1\n"}, errWhy); err != nil {
		t.Fatal(err)
	}
	const others = "nameserver 192.0.2.9\n"
	if err := os.WriteFile(path, []byte(others), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := askDeputy(socket, request{Restore: true}, errWhy); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != others {
		t.Errorf("file %q, %v; want what another program has written meanwhile", b, err)
	}
}

func TestDeputyRefuses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	socket := deputyAt(t, path, t.TempDir())
	for _, bad := range []request{
		{}, {Write: "nameserver 1.1.1.1\n", Restore: true}, {Write: "# nothing\n"}, {Write: "search example.org\nnameserver 1.1.1.1\n"},
		{Write: "nameserver 1.1.1.1\n# a\x1b[31m\n"}, {Write: "nameserver fe80::1%eth0\n"}, {Write: "nameserver 1.1.1.1\n\n"},
		{Write: strings.Repeat("nameserver 1.1.1.1\n", 2000)},
	} {
		if err := askDeputy(socket, bad, errWhy); err == nil {
			t.Errorf("%.40q was taken", bad.Write)
		}
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a refused request has left a file (%v)", err)
	}
	err := askDeputy(filepath.Join(t.TempDir(), "none"), request{Restore: true}, errWhy)
	if !errors.Is(err, errWhy) || !strings.Contains(err.Error(), "cuttle-resolver.socket") {
		t.Errorf("without a deputy: %v, want why it was needed and what is missing", err)
	}
}

func TestResolverFileIsTakenByDeputy(t *testing.T) {
	if _, err := parseRequest([]byte(`{"write":"# Written by cuttled. The file that was here comes back when it goes down.\nnameserver 1.1.1.1\n"}`)); err != nil {
		t.Error(err)
	}
	p, err := NewPlan(Config{Device: "cuttle0", ResolvConf: "/etc/resolv.conf"}, Host{IPv6: true, Filter: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range p.Steps {
		if s.Kind == Resolver {
			if err := askDeputy(deputyAt(t, filepath.Join(t.TempDir(), "r"), t.TempDir()), request{Write: s.Value}, errWhy); err != nil {
				t.Errorf("the plan's own file: %v", err)
			}
			return
		}
	}
	t.Error("the plan has no resolver file")
}

func FuzzDeputyRequest(f *testing.F) {
	f.Add([]byte(`{"write":"nameserver 10.0.0.1\n"}`))
	f.Add([]byte(`{"restore":true}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseRequest(b)
		if err != nil || r.Restore {
			return
		}
		for line := range strings.SplitSeq(strings.TrimSuffix(r.Write, "\n"), "\n") {
			if !strings.HasPrefix(line, "# ") && !strings.HasPrefix(line, "nameserver ") {
				t.Errorf("took line %q", line)
			}
		}
	})
}
