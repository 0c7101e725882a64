package lab

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestStateSurvives(t *testing.T) {
	o := Defaults()
	o.State = t.TempDir()
	if _, err := loadState(o.State); !errors.Is(err, ErrNoLab) {
		t.Errorf("an empty folder gives %v, want ErrNoLab", err)
	}
	s := &state{
		Version: stateVersion, Options: o, Namespaces: []string{"cuttle-net", "cuttle-n1"},
		Processes: map[string]process{"n1": {PID: 1, Start: 2}}, Keys: map[string]string{"n1": "k"},
		Wallets: map[string]wallets{"n1": {"0x1", "0x2"}}, Chain: &ChainInfo{RPC: "r", ID: 1, Token: "t"},
	}
	if err := s.save(); err != nil {
		t.Fatal(err)
	}
	got, err := loadState(o.State)
	if err != nil || !reflect.DeepEqual(got, s) {
		t.Errorf("loaded %+v, %v; want %+v", got, err, s)
	}
}

// A damaged file must never lead Down to something that is not the lab's.
func TestDamagedStateIsRefused(t *testing.T) {
	o := Defaults()
	o.State = t.TempDir()
	write := func(change func(*state)) {
		t.Helper()
		s := &state{Version: stateVersion, Options: o, Namespaces: []string{"cuttle-net"}}
		change(s)
		folder := s.Options.State
		s.Options.State = o.State
		if err := s.save(); err != nil {
			t.Fatal(err)
		}
		if folder == o.State {
			return
		}
		path := filepath.Join(o.State, stateFile)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(strings.Replace(string(b), o.State, folder, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, change := range map[string]func(*state){
		"another version":          func(s *state) { s.Version = 99 },
		"a foreign namespace":      func(s *state) { s.Namespaces = []string{"docker-1"} },
		"a path as namespace":      func(s *state) { s.Namespaces = []string{"cuttle-/../../etc/passwd"} },
		"the prefix as namespace":  func(s *state) { s.Namespaces = []string{"cuttle-"} },
		"no prefix":                func(s *state) { s.Options.Prefix = "" },
		"the root as state folder": func(s *state) { s.Options.State = "/" },
		"another state folder":     func(s *state) { s.Options.State = "/var" },
	} {
		write(change)
		if s, err := loadState(o.State); err == nil {
			t.Errorf("%s: loaded %+v", name, s)
		}
	}
	if err := os.WriteFile(filepath.Join(o.State, stateFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := loadState(o.State); err == nil || errors.Is(err, ErrNoLab) {
		t.Errorf("half a file gives %v, want an error that is not ErrNoLab", err)
	}
}

func TestProcess(t *testing.T) {
	me, ok := readProcess(os.Getpid())
	if !ok || !me.alive() {
		t.Fatalf("we are not found: %+v", me)
	}
	if other := (process{PID: me.PID, Start: me.Start + 1}); other.alive() {
		t.Error("a process with another start time passes for ours")
	}
	if _, ok := readProcess(1 << 30); ok {
		t.Error("a process that cannot exist is found")
	}
	if cpu, ok := me.cpuTime(); !ok || cpu < 0 {
		t.Errorf("CPU time %v, %v", cpu, ok)
	}
	if peak, ok := me.peakMemory(); !ok || peak < 1<<20 {
		t.Errorf("memory %d, %v", peak, ok)
	}
}
