package hostnet

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// memory is a host in memory: what is set, by name. It can die before or after
// any operation, as a process does.
type memory struct {
	set   map[string]string
	life  int // operations left; negative: no end
	fault string
}

var errDead = errors.New("process is dead")

func (m *memory) live() error {
	if m.life == 0 {
		return errDead
	}
	m.life--
	return nil
}

func name(s Step) (key, value string) {
	switch s.Kind { //nolint:exhaustive // the others need no value
	case Sysctl, Resolver:
		return s.Key, s.Value
	}
	return s.String(), "there"
}

func (m *memory) before(s Step) (Before, error) {
	if err := m.live(); err != nil {
		return Before{}, err
	}
	key, _ := name(s)
	v, ok := m.set[key]
	return Before{Value: v, Gone: !ok}, nil
}

func (m *memory) do(s Step) error {
	if err := m.live(); err != nil {
		return err
	}
	key, value := name(s)
	if m.fault != "" && strings.Contains(key, m.fault) {
		return errors.New("the kernel says no")
	}
	m.set[key] = value
	return m.live() // dies after the change
}

func (m *memory) undo(s Step, b Before) error {
	if err := m.live(); err != nil {
		return err
	}
	key, value := name(s)
	if m.set[key] != value {
		return nil
	}
	if b.Gone {
		delete(m.set, key)
	} else {
		m.set[key] = b.Value
	}
	return m.live()
}

func somePlan(t *testing.T) Plan {
	t.Helper()
	p, err := NewPlan(Config{Device: "cuttle0", ResolvConf: "/etc/resolv.conf"}, Host{IPv6: true, StrictFilter: true})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestApplyRevert(t *testing.T) {
	dir := t.TempDir()
	m := &memory{set: map[string]string{"/etc/resolv.conf": "old", "net/ipv4/conf/all/rp_filter": "1"}, life: -1}
	before := maps.Clone(m.set)
	a, err := apply(m, dir, somePlan(t))
	if err != nil {
		t.Fatal(err)
	}
	if len(m.set) < 10 || m.set["/etc/resolv.conf"] == "old" {
		t.Fatalf("applied plan left %v", m.set)
	}
	if _, err := apply(m, dir, somePlan(t)); err == nil {
		t.Fatal("a second plan was applied over one in force")
	}
	if err := a.Revert(); err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(m.set, before) {
		t.Fatalf("reverted host is %v, want %v", m.set, before)
	}
	if found, err := recoverWith(m, dir); found || err != nil {
		t.Fatalf("recover after a revert: %v, %v; want nothing to do", found, err)
	}
}

// TestRecoverFromAnyPoint lets the process die after each operation of apply
// and of the first recovery, and wants the host as it was in the end.
func TestRecoverFromAnyPoint(t *testing.T) {
	points := 0
	for life := 0; ; life++ {
		m := &memory{set: map[string]string{"/etc/resolv.conf": "old", "net/ipv4/conf/all/rp_filter": "1"}, life: life}
		before := maps.Clone(m.set)
		dir := t.TempDir()
		a, err := apply(m, dir, somePlan(t))
		if err == nil {
			_ = a.journal.close() // the process ends with its plan in force
		}
		m.life = life % 7
		_, _ = recoverWith(m, dir) // dies again
		m.life = -1
		if _, rerr := recoverWith(m, dir); rerr != nil {
			t.Fatalf("recover after %d operations: %v", life, rerr)
		}
		if !maps.Equal(m.set, before) {
			t.Fatalf("host after %d operations and recovery is %v, want %v", life, m.set, before)
		}
		points++
		if err == nil {
			break
		}
	}
	if points < 20 {
		t.Fatalf("only %d points were tried", points)
	}
}

func TestApplyUndoesOnFailure(t *testing.T) {
	m := &memory{set: map[string]string{"/etc/resolv.conf": "old"}, life: -1, fault: "ip -6 route add default"}
	before := maps.Clone(m.set)
	if _, err := apply(m, t.TempDir(), somePlan(t)); err == nil || !strings.Contains(err.Error(), "the kernel says no") {
		t.Fatalf("apply: %v, want the kernel's refusal", err)
	}
	if !maps.Equal(m.set, before) {
		t.Fatalf("host after a failed apply is %v, want %v", m.set, before)
	}
}

func TestJournalCutByCrash(t *testing.T) {
	dir := t.TempDir()
	j, err := openJournal(dir)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if err := j.append(record{Step: Step{Kind: Sysctl, Key: fmt.Sprint(i)}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, journalName)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("journal has mode %v (%v), want 0600", info.Mode(), err)
	}
	for cut := range len(b) + 1 {
		records, err := parseJournal(b[:cut])
		if want := strings.Count(string(b[:cut]), "\n"); err != nil || len(records) != want {
			t.Fatalf("journal cut at %d has %d records (%v), want %d", cut, len(records), err, want)
		}
	}
}

func FuzzJournal(f *testing.F) {
	f.Add([]byte(`{"step":{"kind":"rule","family":4,"mark":1,"mask":1},"before":{"file":{"content":"eA==","uid":0,"gid":0}}}` + "\n"))
	f.Add([]byte("{}\n{"))
	f.Add([]byte(`{"step":{"kind":"address","address":"fd00::1"},"before":{}}` + "\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		records, err := parseJournal(b)
		if err != nil {
			return
		}
		for _, r := range records {
			_ = r.Step.String()
		}
	})
}
