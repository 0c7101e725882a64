package hostnet

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// memory is a host in memory: what is set, by name. It can die before or after
// any operation, as a process does.
type memory struct {
	set   map[string]string
	life  int // operations left; negative: no end
	fault string
	moves int // how many looks at it find that it changes

	changed chan struct{}
	opened  bool // a closing step was undone
	slept   atomic.Int64
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
	case Sysctl, Resolver: // by path
		return s.Key, s.Value
	case PacketFilter, EgressFilter:
		return string(s.Kind), s.String()
	}
	return s.String(), "there"
}

func (m *memory) before(s Step) (Before, error) {
	if err := m.live(); err != nil {
		return Before{}, err
	}
	if s.keepsIn() {
		return Before{Gone: true}, nil // undone whatever was there
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

func (m *memory) holds(s Step) (bool, error) {
	if m.moves > 0 {
		m.moves--
		return false, fmt.Errorf("list rules: %w", errChanging)
	}
	key, value := name(s)
	return m.set[key] == value, m.live()
}

func (m *memory) asleep() time.Duration { return time.Duration(m.slept.Load()) }

func (m *memory) foreign(Plan) (int, error) { return 0, nil }

func (m *memory) events() (<-chan struct{}, func() error, error) {
	return m.changed, func() error { return nil }, nil
}

func (m *memory) undo(s Step, b Before) error {
	if err := m.live(); err != nil {
		return err
	}
	key, value := name(s)
	if m.set[key] != value && s.Kind != PacketFilter && s.Kind != EgressFilter {
		return nil
	}
	m.opened = m.opened || s.closes() && s.Kind != Sysctl
	if b.Gone {
		delete(m.set, key)
	} else {
		m.set[key] = b.Value
	}
	return m.live()
}

func somePlan(t *testing.T) Plan {
	t.Helper()
	p, err := NewPlan(Config{Device: "cuttle0", ResolvConf: "/etc/resolv.conf"}, Host{IPv6: true, StrictFilter: true, Filter: true, Egress: true})
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
		if a != nil {
			_ = a.Leave() // the process ends with its plan in force
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

func TestFailedApplyStaysClosed(t *testing.T) {
	m := &memory{set: map[string]string{"/etc/resolv.conf": "old"}, life: -1, fault: "ip -6 route add default"}
	before := maps.Clone(m.set)
	a, err := apply(m, t.TempDir(), somePlan(t))
	if err == nil || !strings.Contains(err.Error(), "the kernel says no") {
		t.Fatalf("apply: %v, want the kernel's refusal", err)
	}
	if m.set[string(PacketFilter)] == "" {
		t.Error("a failed apply left no packet filter, want it closed")
	}
	if err := a.Revert(); err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(m.set, before) {
		t.Fatalf("host after a failed apply was reverted is %v, want %v", m.set, before)
	}
}

// TestTakeOver ends a process with its plan in force at any point and lets the
// next one, with the same or another plan, take over: nothing that closes is
// ever undone, and the last revert brings back what was there first.
func TestTakeOver(t *testing.T) {
	other, err := NewPlan(Config{Device: "tun7", Mark: 7, Table: 77, ResolvConf: "/etc/resolv.conf"}, Host{IPv6: true, Filter: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, plans := range [][]Plan{
		{somePlan(t), somePlan(t), somePlan(t)},
		{somePlan(t), somePlan(t).Block(), somePlan(t)},
		{somePlan(t), other, somePlan(t)},
		{other, somePlan(t), other.Block()},
	} {
		for life := 0; life < 60; life++ {
			m := &memory{set: map[string]string{"/etc/resolv.conf": "old", "net/ipv4/conf/all/rp_filter": "1"}, life: life}
			before := maps.Clone(m.set)
			dir := t.TempDir()
			var a *Applied
			for i, p := range plans {
				filtered := m.set[string(PacketFilter)] != ""
				a, err = apply(m, dir, p)
				if filtered && m.set[string(PacketFilter)] == "" {
					t.Fatalf("plan %d opened the packet filter (%v)", i, err)
				}
				if i < len(plans)-1 {
					if err := a.Leave(); err != nil { // the process dies
						t.Fatal(err)
					}
					m.life = -1
					if i == 0 {
						m.life = life
					}
				}
			}
			m.life = -1
			if err := a.Revert(); err != nil {
				t.Fatal(err)
			}
			if !maps.Equal(m.set, before) {
				t.Fatalf("host after %d operations and three lives is %v, want %v", life, m.set, before)
			}
		}
	}
}

// TestCloseUndoesNothing closes over what an earlier process has left when that
// cannot be undone, and lets the next one undo it.
func TestCloseUndoesNothing(t *testing.T) {
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
	ours := m.set["/etc/resolv.conf"]
	m.set = map[string]string{"/etc/resolv.conf": ours, "net/ipv4/conf/all/rp_filter": "1"} // a boot: only files are left
	if err := closeWith(m, dir, somePlan(t).Block()); err != nil {
		t.Fatal(err)
	}
	if m.set[string(PacketFilter)] == "" || m.set["/etc/resolv.conf"] != ours {
		t.Errorf("after closing the host is %v, want the filter and the file untouched", m.set)
	}
	if _, err := recoverWith(m, dir); err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(m.set, before) {
		t.Errorf("host is %v after all, want %v", m.set, before)
	}
}

// TestSamePlanNeverOpens takes the same plan over again and again.
func TestSamePlanNeverOpens(t *testing.T) {
	m := &memory{set: map[string]string{"/etc/resolv.conf": "old", "net/ipv4/conf/all/rp_filter": "1"}, life: -1}
	dir := t.TempDir()
	size := int64(0)
	for i := range 5 {
		delete(m.set, "ip link set cuttle0 up") // the TUN ends with its process
		a, err := apply(m, dir, somePlan(t))
		if err != nil {
			t.Fatal(err)
		}
		if err := a.Leave(); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(filepath.Join(dir, journalName))
		if err != nil {
			t.Fatal(err)
		}
		if i > 1 && info.Size() != size {
			t.Errorf("journal has %d bytes after start %d, %d before", info.Size(), i, size)
		}
		size = info.Size()
	}
	if m.opened {
		t.Error("taking over the same plan undid a step that closes")
	}
}

// TestTakeOverKeepsLaterChanges: what somebody wrote into the resolver file
// after a crash is what comes back in the end.
func TestTakeOverKeepsLaterChanges(t *testing.T) {
	m := &memory{set: map[string]string{"/etc/resolv.conf": "old"}, life: -1}
	dir := t.TempDir()
	a, err := apply(m, dir, somePlan(t))
	if err := errors.Join(err, a.Leave()); err != nil {
		t.Fatal(err)
	}
	m.set["/etc/resolv.conf"] = "newer"
	if a, err = apply(m, dir, somePlan(t)); err != nil {
		t.Fatal(err)
	}
	if err := a.Revert(); err != nil || m.set["/etc/resolv.conf"] != "newer" {
		t.Errorf("resolver file is %q (%v), want what was there before the second start", m.set["/etc/resolv.conf"], err)
	}
}

func TestWatchMends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{set: map[string]string{"/etc/resolv.conf": "old"}, life: -1, changed: make(chan struct{}, 1)}
		a, err := apply(m, t.TempDir(), somePlan(t))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var mended []string
		done := make(chan error, 1)
		go func() { done <- a.Watch(ctx, func(what string) { mended = append(mended, what) }) }() // ends with ctx
		synctest.Wait()
		delete(m.set, string(PacketFilter))
		m.set["net/ipv4/conf/all/rp_filter"] = "1"
		m.changed <- struct{}{}
		time.Sleep(checkPause)
		synctest.Wait()
		if m.set[string(PacketFilter)] == "" || len(mended) != 2 {
			t.Errorf("mended %q, want the filter and the sysctl", mended)
		}
		delete(m.set, string(EgressFilter)) // and nobody tells
		time.Sleep(checkAlways + checkPause)
		synctest.Wait()
		if m.set[string(EgressFilter)] == "" {
			t.Error("a change that nobody told of was not mended")
		}
		m.fault = "ip -4 rule"
		for k := range m.set {
			if strings.HasPrefix(k, "ip -4 rule") {
				delete(m.set, k)
			}
		}
		m.changed <- struct{}{}
		if err := <-done; err == nil || !strings.Contains(err.Error(), "the kernel says no") {
			t.Errorf("watch ended with %v, want the kernel's refusal", err)
		}
		cancel()
		if err := a.Leave(); err != nil {
			t.Error(err)
		}
	})
}

// TestJournalIsBounded changes what is let through very often, with a step that fails
// now and then, ends the process at some point of each round, and wants a small journal
// and, in the end, the host as it was.
func TestJournalIsBounded(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	m := &memory{set: map[string]string{"/etc/resolv.conf": "old", "net/ipv4/conf/all/rp_filter": "1"}, life: -1}
	before := maps.Clone(m.set)
	dir := t.TempDir()
	plan := func(i int) Plan {
		cfg := Config{Device: "cuttle0", ResolvConf: "/etc/resolv.conf"}
		for range 1 + i%7 { // sizes differ, too
			cfg.Listen = append(cfg.Listen, uint16(1000+i))
		}
		p, err := NewPlan(cfg, Host{IPv6: true, StrictFilter: true, Filter: true, Egress: true})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	size := func() int64 {
		info, err := os.Stat(filepath.Join(dir, journalName))
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	var a *Applied
	bound := int64(0)
	for i := range 200 {
		var err error
		if m.fault = ""; i%5 == 4 {
			m.fault = "ip link set"
			delete(m.set, "ip link set cuttle0 up")
		}
		if a == nil {
			if a, err = apply(m, dir, plan(i)); a == nil {
				t.Fatal(err)
			}
		} else {
			m.life = -1
			if i%11 == 10 {
				m.life = random.IntN(40)
			}
			err = a.Change(plan(i))
		}
		if failed := m.fault != "" || m.life >= 0; err != nil && !failed {
			t.Fatal(err)
		}
		if m.set[string(PacketFilter)] == "" {
			t.Fatalf("round %d has no packet filter", i)
		}
		if m.life >= 0 { // it is dead, and the next one takes over
			if err := a.Leave(); err != nil {
				t.Fatal(err)
			}
			a, m.life = nil, -1
		}
		if i == 30 {
			bound = 2 * size()
		}
		if i > 30 && size() > bound {
			t.Fatalf("after %d rounds the journal has %d bytes, more than twice as many as after 30", i, size())
		}
	}
	m.fault, m.life = "", -1
	if a != nil {
		if err := a.Leave(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := recoverWith(m, dir); err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(m.set, before) {
		t.Errorf("after all the host is %v, want %v", m.set, before)
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

// TestLookAfterSleep changes a plan while the machine sleeps, of which no event
// tells, and wants it mended within a second.
func TestLookAfterSleep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{set: map[string]string{"net/ipv4/conf/all/rp_filter": "1"}, life: -1, changed: make(chan struct{})}
		a, err := apply(m, t.TempDir(), somePlan(t))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		mended := make(chan time.Time, 1)
		go func() { done <- a.Watch(ctx, func(string) { mended <- time.Now() }) }() // ends with ctx
		time.Sleep(checkSleep / 2)
		synctest.Wait()
		delete(m.set, string(EgressFilter))
		m.slept.Store(int64(time.Hour))
		began := time.Now()
		if at := <-mended; at.Sub(began) > time.Second {
			t.Errorf("mended %v after the machine woke", at.Sub(began))
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := a.Revert(); err != nil {
			t.Error(err)
		}
	})
}

// TestLookRevises has the plan changed from within.
func TestLookRevises(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{set: map[string]string{"net/ipv4/conf/all/rp_filter": "1"}, life: -1, changed: make(chan struct{})}
		whole := somePlan(t)
		a, err := apply(m, t.TempDir(), whole)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done, wake := make(chan error, 1), make(chan struct{})
		asked := false
		go func() { // ends with ctx
			done <- a.Look(ctx, func(string) {}, wake, func(change func(Plan) error) error {
				if !asked {
					return nil
				}
				return change(whole.Block())
			})
		}()
		synctest.Wait()
		asked = true
		wake <- struct{}{}
		time.Sleep(checkPause)
		synctest.Wait()
		if _, there := m.set["/etc/resolv.conf"]; there || m.set[string(PacketFilter)] == "" || m.opened {
			t.Errorf("after the change the host is %v, opened %v; want the block alone", m.set, m.opened)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := a.Revert(); err != nil {
			t.Error(err)
		}
	})
}

// TestLookAgain wants what cannot be read, since it changes, to be looked at again,
// but not for ever.
func TestLookAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{set: map[string]string{}, life: -1, changed: make(chan struct{})}
		a, err := apply(m, t.TempDir(), somePlan(t).Block())
		if err != nil {
			t.Fatal(err)
		}
		m.moves = 20
		delete(m.set, string(EgressFilter))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- a.Watch(ctx, func(string) {}) }() // ends with ctx
		time.Sleep(time.Second)
		synctest.Wait()
		if m.set[string(EgressFilter)] == "" || m.moves > 0 {
			t.Errorf("not mended after %d looks too few", m.moves)
		}
		m.moves = 1 << 20
		m.changed <- struct{}{}
		if err := <-done; !errors.Is(err, errChanging) {
			t.Errorf("watch of what changes for ever ended with %v", err)
		}
		cancel()
		m.moves = 0
		if err := a.Revert(); err != nil {
			t.Error(err)
		}
	})
}
