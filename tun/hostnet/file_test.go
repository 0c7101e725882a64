package hostnet

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// describe says everything about path that must come back.
func describe(t *testing.T, path string) string {
	t.Helper()
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "nothing"
	}
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		target, err := os.Readlink(path)
		if err != nil {
			t.Fatal(err)
		}
		return "link to " + target
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode().String() + " " + string(b)
}

func TestResolverFileComesBack(t *testing.T) {
	const ours = "# ours\nnameserver 10.255.255.53\n"
	tests := []struct {
		name string
		make func(path string) error
	}{
		{"file", func(path string) error { return os.WriteFile(path, []byte("nameserver 192.0.2.1\n"), 0o640) }},
		{"empty file", func(path string) error { return os.WriteFile(path, nil, 0o644) }},
		{"nothing", func(string) error { return nil }},
		{"link", func(path string) error { return os.Symlink("../run/stub.conf", path) }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "resolv.conf")
			if err := test.make(path); err != nil {
				t.Fatal(err)
			}
			want := describe(t, path)
			f, gone, err := readFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := replaceFile(path, ours); err != nil {
				t.Fatal(err)
			}
			if b, err := os.ReadFile(path); err != nil || string(b) != ours {
				t.Fatalf("file is %q (%v), want %q", b, err, ours)
			}
			for range 2 { // the second finds nothing to do
				if err := restoreFile(path, ours, Before{File: f, Gone: gone}); err != nil {
					t.Fatal(err)
				}
				if got := describe(t, path); got != want {
					t.Errorf("restored is %q, want %q", got, want)
				}
			}
			entries, err := os.ReadDir(filepath.Dir(path))
			if err != nil || len(entries) > 1 {
				t.Errorf("directory has %v (%v), want no leftovers", entries, err)
			}
		})
	}
}

func TestChangedResolverFileStays(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(path, []byte("by a DHCP client\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	before := Before{File: &File{Content: []byte("old\n"), Mode: 0o644}}
	if err := restoreFile(path, "ours\n", before); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "by a DHCP client\n" {
		t.Errorf("file is %q (%v), want what somebody else wrote", b, err)
	}
}

// TestHalfWrittenResolverFile is the crash within an in-place write.
func TestHalfWrittenResolverFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(path, []byte("our"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+newSuffix, []byte("o"), 0o644); err != nil {
		t.Fatal(err)
	}
	before := Before{File: &File{Content: []byte("old\n"), Mode: 0o644, UID: os.Getuid(), GID: os.Getgid()}}
	if err := restoreFile(path, "ours\n", before); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "old\n" {
		t.Errorf("file is %q (%v), want the old one", b, err)
	}
	if _, err := os.Stat(path + newSuffix); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("leftover is still there: %v", err)
	}
}
