package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

func TestProfile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "cpu.pprof")
	end, err := profile(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := profile(file); err == nil {
		t.Error("a second profile into the same file is begun")
	}
	if err := end(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(file)
	if err != nil || !bytes.HasPrefix(b, []byte{0x1f, 0x8b}) { // pprof's format is gzipped
		t.Errorf("profile of %d bytes, %v; want gzip", len(b), err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode of the profile: %v, %v; want 0600", info.Mode(), err)
	}
	end, err = profile("")
	if err != nil || end() != nil {
		t.Errorf("no profile wanted: %v", err)
	}
}
