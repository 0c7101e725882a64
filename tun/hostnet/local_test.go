package hostnet

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestLocalResolvers(t *testing.T) {
	dir := t.TempDir()
	resolver := filepath.Join(dir, "resolv.conf")
	lease := filepath.Join(dir, "lease")
	leases := leaseFolders
	leaseFolders = []string{filepath.Join(dir, "none"), lease}
	defer func() { leaseFolders = leases }()
	for path, text := range map[string]string{
		resolver: "search home\nnameserver 127.0.0.53\nnameserver 192.168.1.1\n", lease: "ADDRESS=192.168.1.7\nDNS=192.168.1.1 fd12::1 10.0.0.1 10.0.0.2\n",
	} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	m := &memory{set: map[string]string{}, life: -1}
	k := &fileKernel{memory: m}
	p, err := NewPlan(Config{Device: "cuttle0", ResolvConf: resolver}, Host{Filter: true})
	if err != nil {
		t.Fatal(err)
	}
	want := []netip.Addr{netip.MustParseAddr("192.168.1.1"), netip.MustParseAddr("fd12::1"), netip.MustParseAddr("10.0.0.1")}
	check := func(when string) {
		t.Helper()
		if got, err := LocalResolvers(dir, resolver); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: resolvers are %v (%v), want %v", when, got, err, want)
		}
	}
	check("before")
	a, err := apply(k, dir, p)
	if err != nil {
		t.Fatal(err)
	}
	check("while captured")
	if err := a.Revert(); err != nil {
		t.Fatal(err)
	}
	check("after")
}

// fileKernel is a host in memory with a real resolver file.
type fileKernel struct{ *memory }

func (k *fileKernel) before(s Step) (Before, error) {
	if s.Kind == Resolver {
		f, gone, err := readFile(s.Key)
		return Before{File: f, Gone: gone}, err
	}
	return k.memory.before(s)
}

func (k *fileKernel) do(s Step) error {
	if s.Kind == Resolver {
		return replaceFile(s.Key, s.Value)
	}
	return k.memory.do(s)
}

func (k *fileKernel) undo(s Step, b Before) error {
	if s.Kind == Resolver {
		return restoreFile(s.Key, s.Value, b)
	}
	return k.memory.undo(s, b)
}

func FuzzNameServers(f *testing.F) {
	f.Add([]byte("nameserver 192.168.1.1\nDNS=1.2.3.4 fd12::1\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, a := range nameServers(b) {
			if !a.IsValid() || a.IsLoopback() || a.Is4In6() {
				t.Errorf("address %v", a)
			}
		}
	})
}
