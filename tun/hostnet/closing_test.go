package hostnet

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// keepers are what keeps traffic in by a plan, as memory names it.
func keepers(p Plan) []string {
	var out []string
	for _, s := range p.Steps {
		if s.keepsIn() {
			key, _ := name(s)
			out = append(out, key)
		}
	}
	return out
}

// TestFailedStepStillCloses refuses one change after the other and wants all
// others that keep traffic in to be made, by every way to put a plan in force.
func TestFailedStepStillCloses(t *testing.T) {
	p := somePlan(t)
	if len(keepers(p)) != 6 {
		t.Fatalf("the plan keeps traffic in by %q, want six", keepers(p))
	}
	for _, fault := range append(keepers(p), "rp_filter", "disable_ipv6", "ip address", "ip link", "ip -4 route add default", "resolv.conf") {
		for way, put := range map[string]func(m *memory, dir string) error{
			"apply": func(m *memory, dir string) error { _, err := apply(m, dir, p); return err },
			"close": func(m *memory, dir string) error { return closeWith(m, dir, p) },
			"change": func(m *memory, dir string) error {
				a, err := apply(m, dir, Plan{})
				if err != nil {
					return err
				}
				return a.Change(p)
			},
			"mend": func(m *memory, _ string) error {
				a := &Applied{kernel: m, plan: p}
				return a.mend(func(string) {})
			},
		} {
			m := &memory{set: map[string]string{}, life: -1, fault: fault}
			err := put(m, t.TempDir())
			if (err == nil || !strings.Contains(err.Error(), "the kernel says no")) && !(way == "mend" && fault == "resolv.conf") {
				t.Errorf("%s without %q: %v, want the kernel's refusal", way, fault, err)
			}
			for _, key := range keepers(p) {
				if _, there := m.set[key]; !there && !strings.Contains(key, fault) {
					t.Errorf("%s: a refusal of %q has kept back %q", way, fault, key)
				}
			}
		}
	}
}

// TestNothingWidensAfterFailure wants what is let through not to be routed when
// the filter that bounds it is not there, and not to stay routed.
func TestNothingWidensAfterFailure(t *testing.T) {
	widening := []Step{{Kind: PastRule, Family: 4, Mark: 1, Mask: 1}, {Kind: LANRoute, Family: 4, Device: "eth0", Stay: true}}
	wide := somePlan(t)
	wide.Steps = append(wide.Steps, widening...)
	there := func(m *memory) (n int) {
		for _, s := range widening {
			if _, ok := m.set[s.String()]; ok {
				n++
			}
		}
		return n
	}
	m := &memory{set: map[string]string{}, life: -1, fault: string(EgressFilter)}
	if _, err := apply(m, t.TempDir(), wide); err == nil || there(m) != 0 {
		t.Errorf("without a layer %d of what widens was put in force (%v)", there(m), err)
	}
	m = &memory{set: map[string]string{}, life: -1}
	a, err := apply(m, t.TempDir(), wide)
	if err != nil || there(m) != len(widening) {
		t.Fatalf("%d of %d in force (%v)", there(m), len(widening), err)
	}
	m.fault = string(EgressFilter)
	delete(m.set, m.fault) // so that it has to be loaded
	if err := a.Change(somePlan(t).Block()); err == nil || there(m) != 0 {
		t.Errorf("after a change that failed (%v) %d of what widens are still there", err, there(m))
	}
}

func TestClosed(t *testing.T) {
	for _, test := range []struct {
		faults []string
		want   bool
	}{
		{nil, true},
		{[]string{"ip -"}, true},      // the filter holds
		{[]string{"filter"}, true},    // routing holds
		{[]string{"rp_filter"}, true}, // not a layer
		{[]string{"filter", "ip -6 rule"}, false},
		{[]string{"filter", "ip -4 route add unreachable"}, false},
	} {
		m := &memory{set: map[string]string{}, life: -1}
		a, err := apply(m, t.TempDir(), somePlan(t).Block())
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range test.faults {
			maps.DeleteFunc(m.set, func(key, _ string) bool { return strings.Contains(key, f) })
		}
		if got := a.Closed(); got != test.want {
			t.Errorf("without %q the machine is closed: %v, want %v", test.faults, got, test.want)
		}
	}
}

// TestJournalThatCannotBeRead wants the machine closed although the journal is
// damaged, and what can be read of it to be undone in the end.
func TestJournalThatCannotBeRead(t *testing.T) {
	m := &memory{set: map[string]string{"/etc/resolv.conf": "old", "net/ipv4/conf/all/rp_filter": "1"}, life: -1}
	before := maps.Clone(m.set)
	dir := t.TempDir()
	a, err := apply(m, dir, somePlan(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Leave(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, journalName)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(string(b), "\n")
	damaged := "\x00\x00 nonsense\n" + strings.Join(lines[1:], "") // the filter's line is gone
	if err := os.WriteFile(path, []byte(damaged), 0o600); err != nil {
		t.Fatal(err)
	}
	if left, err := Left(dir); err == nil || len(left.Steps) != len(lines)-2 {
		t.Errorf("of a damaged journal %d steps can be read (%v), want %d and an error", len(left.Steps), err, len(lines)-2)
	}
	if err := closeWith(m, dir, somePlan(t).Block()); err != nil {
		t.Errorf("close over a damaged journal: %v", err)
	}
	if b, err := os.ReadFile(path + badSuffix); err != nil || string(b) != damaged {
		t.Errorf("the damaged journal is not kept (%v)", err)
	}
	if _, err := Left(dir); err != nil {
		t.Errorf("after closing the journal is still damaged: %v", err)
	}
	if _, err := recoverWith(m, dir); err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(m.set, before) {
		t.Errorf("host is %v after all, want %v", m.set, before)
	}
}

// TestNoJournal wants the machine closed where no journal can be made at all, and
// opened again by the same process.
func TestNoJournal(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, journalName)
	if err := os.MkdirAll(filepath.Join(path, "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	m := &memory{set: map[string]string{}, life: -1}
	p := somePlan(t)
	a, err := apply(m, dir, p.Block())
	if a == nil || err == nil || !a.Closed() {
		t.Fatalf("without a journal: %v, want the machine closed, and the reason", err)
	}
	if len(m.set) != len(keepers(p)) {
		t.Errorf("without a journal the host is %v, want what keeps traffic in and no more", m.set)
	}
	if _, err := Left(dir); err == nil {
		t.Error("nothing is said to be left without a journal, want an error")
	}
	if err := a.undo(); err == nil || len(m.set) != 0 {
		t.Errorf("reverted without a journal: %v, host is %v; want it open, and told of the journal", err, m.set)
	}
}

// TestFullDisk wants a machine that is to be closed not to wait for room on a disk.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	m := &memory{set: map[string]string{}, life: -1}
	a, err := apply(m, dir, Plan{})
	if err != nil {
		t.Fatal(err)
	}
	writable := a.journal.file
	if a.journal.file, err = os.Open(filepath.Join(dir, journalName)); err != nil {
		t.Fatal(err)
	}
	defer writable.Close()
	if err := a.Change(somePlan(t)); err == nil || !a.Closed() || len(m.set) != len(keepers(somePlan(t))) {
		t.Errorf("with a full disk: %v, host is %v; want what keeps traffic in", err, m.set)
	}
	if err := a.undo(); err != nil && len(m.set) != 0 {
		t.Errorf("after a full disk: %v, host is %v", err, m.set)
	}
}

func TestShut(t *testing.T) {
	p, err := Shut(Config{Device: "cuttle0", LAN: true, Split: Split{Only: true}, Router: &Router{}})
	if err != nil {
		t.Fatal(err)
	}
	if f := p.Filter(); len(keepers(p)) != len(p.Steps) || len(p.Steps) != 6 || f.Past != 0 || f.Router != nil {
		t.Errorf("shut is\n%s\nwant six steps that keep traffic in and let nothing through", p)
	}
}
