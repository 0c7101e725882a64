package hostnet

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	home = Host{Mac: true, Attached: []Attached{
		{"en0", netip.MustParsePrefix("192.168.1.0/24")}, {"en0", netip.MustParsePrefix("fd12::/64")}, {"en0", netip.MustParsePrefix("2001:db8:1::/64")},
		{"en5", netip.MustParsePrefix("203.0.113.0/24")},
	}}
	macConfig = Config{Device: "utun637", MTU: 1500, ResolvConf: "/etc/resolv.conf", Listen: []uint16{443},
		Peers: []netip.AddrPort{netip.MustParseAddrPort("203.0.113.5:443"), netip.MustParseAddrPort("[2001:db8::5]:8443")}}
)

func TestMacPlanGolden(t *testing.T) {
	lan, none := macConfig, Config{Device: "utun637", Split: Split{Only: true, Users: []uint32{501}}, Router: &Router{Device: "en5", Addresses: prefixes("192.168.77.1/24")}}
	lan.LAN = true
	for name, cfg := range map[string]Config{"mac": macConfig, "mac-lan": lan, "mac-no-peers": none} {
		p, err := NewPlan(cfg, home)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join("testdata", name+".plan")
		if *update {
			if err := os.WriteFile(path, []byte(p.String()), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.String(); got != string(want) {
			t.Errorf("plan %s is\n%s\nwant\n%s", name, got, want)
		}
	}
	for _, device := range []string{"cuttle0", "utun", "utunx", "utun1 all"} {
		if p, err := NewPlan(Config{Device: device}, home); err == nil {
			t.Errorf("a TUN %q gave a plan:\n%s", device, p)
		}
	}
}

// TestMacBlock wants the block to close without a TUN: pf first, and on only when
// it has rules.
func TestMacBlock(t *testing.T) {
	p := macPlanOf(t, macConfig)
	var kinds []Kind
	for _, s := range p.Block().Steps {
		kinds = append(kinds, s.Kind)
	}
	if want := []Kind{MacHook, MacFilter, MacOn, MacReject, MacReject, MacReject, MacReject}; !slices.Equal(kinds, want) {
		t.Errorf("block has steps %q, want %q", kinds, want)
	}
	if !p.Captures() || p.Block().Captures() {
		t.Error("the plan must lead into the TUN, and its block must not")
	}
}

// TestMacRules wants every rule to decide at once and to remember nothing, and what
// no rule names to be blocked.
func TestMacRules(t *testing.T) {
	cfg := macConfig
	cfg.LAN = true
	lines := strings.Split(strings.TrimSpace(macPlanOf(t, cfg).Filter().pfRules()), "\n")
	for _, line := range lines {
		if !strings.Contains(line, " quick ") || strings.HasPrefix(line, "pass") != strings.HasSuffix(line, " no state") {
			t.Errorf("rule %q: want quick, and no state if it passes", line)
		}
	}
	if got, want := lines[len(lines)-2:], []string{"block return out quick all", "block drop in quick all"}; !slices.Equal(got, want) {
		t.Errorf("the last rules are %q, want %q", got, want)
	}
	names := slices.Index(lines, "block return out quick proto udp from any to any port 53")
	lan := slices.IndexFunc(lines, func(l string) bool { return strings.Contains(l, "192.168.1.0/24") })
	if names < 0 || lan < names {
		t.Errorf("names are kept in at rule %d, the LAN is let through at rule %d: want the former before", names, lan)
	}
}

func macPlanOf(t *testing.T, cfg Config) Plan {
	t.Helper()
	p, err := NewPlan(cfg, home)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// aMac is a Mac in memory, as far as a plan sees it: what the programs of the system
// hold, the routes and the devices. It can die before any operation.
type aMac struct {
	main, ours string // rules
	on         bool
	tokens     []string
	states     bool // some rules have let connections through
	skip       string
	store      map[string][]string
	routes     []way
	devices    map[string]macDevice
	kept       string
	life       int // operations left; negative: no end
	opened     bool
	fault      string // a command that fails
}

func newMac() *aMac {
	return &aMac{main: appleRules, store: make(map[string][]string), devices: make(map[string]macDevice), states: true, life: -1}
}

const appleRules = "scrub-anchor \"com.apple/*\" all fragment reassemble\nanchor \"com.apple/*\" all\n"

func (m *aMac) live() error {
	if m.life == 0 {
		return errDead
	}
	m.life--
	return nil
}

func (m *aMac) run(stdin, program string, args ...string) (string, string, error) {
	if err := m.live(); err != nil {
		return "", "", err
	}
	command := program + " " + strings.Join(args, " ")
	if command == m.fault {
		return "", "pfctl: no", errors.New("exit status 1")
	}
	out, err := m.answer(stdin, command)
	return out, out, err
}

func (m *aMac) answer(stdin, command string) (string, error) {
	switch command {
	case "/sbin/pfctl -s rules":
		return m.main, nil
	case "/sbin/pfctl -R -f -":
		m.main = stdin
	case "/sbin/pfctl -F rules":
		m.main = ""
	case "/sbin/pfctl -a com.apple/000.cuttle -f -":
		m.ours = stdin
	case "/sbin/pfctl -a com.apple/000.cuttle -s rules":
		return m.ours, nil
	case "/sbin/pfctl -a com.apple/000.cuttle -F rules":
		m.ours, m.opened = "", true
	case "/sbin/pfctl -F states":
		m.states = false
	case "/sbin/pfctl -v -s Interfaces":
		return "ALL\nen0" + m.skip + "\nlo0 (skip)\n", nil
	case "/sbin/pfctl -s info":
		return "Status: " + map[bool]string{true: "Enabled for 0 days 00:00:10", false: "Disabled"}[m.on] + "           Debug: Urgent\n", nil
	case "/sbin/pfctl -E":
		m.on = true
		m.tokens = append(m.tokens, fmt.Sprint(1844674352495398000+len(m.tokens)))
		return "pf enabled\nToken : " + m.tokens[len(m.tokens)-1] + "\n", nil
	case "/sbin/pfctl -s References":
		return "TOKENS:\nPID      Process Name                 TOKEN                    TIMESTAMP\n77       pfctl                        " +
			strings.Join(m.tokens, " 0 days\n78 pfctl ") + "\n", nil
	case "/usr/sbin/scutil ":
		return m.scutil(stdin), nil
	default:
		token, ok := strings.CutPrefix(command, "/sbin/pfctl -X ")
		if i := slices.Index(m.tokens, token); ok && i >= 0 {
			m.tokens = slices.Delete(m.tokens, i, i+1)
			m.on = len(m.tokens) > 0
			return "", nil
		}
		return "pfctl: I do not understand", errors.New("exit status 1")
	}
	return "", nil
}

func (m *aMac) scutil(script string) string {
	var out strings.Builder
	var dictionary []string
	for line := range strings.Lines(script) {
		verb, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch verb {
		case "d.init":
			dictionary = nil
		case "d.add":
			dictionary = append(dictionary, rest)
		case "set":
			m.store[rest] = dictionary
		case "remove":
			delete(m.store, rest)
		case "show":
			if m.store[rest] == nil {
				out.WriteString("  No such key\n")
				continue
			}
			out.WriteString("<dictionary> {\n")
			for _, entry := range m.store[rest] {
				key, values, _ := strings.Cut(entry, " * ")
				fmt.Fprintf(&out, "  %s : <array> {\n", key)
				for i, v := range strings.Fields(values) {
					fmt.Fprintf(&out, "    %d : %s\n", i, v)
				}
				out.WriteString("  }\n")
			}
			out.WriteString("}\n")
		}
	}
	return out.String()
}

func (m *aMac) ways() ([]way, error) { return m.routes, m.live() }

func (m *aMac) addWay(w way, _ netip.Addr) error {
	if err := m.live(); err != nil {
		return err
	}
	if slices.ContainsFunc(m.routes, func(o way) bool { return o.network == w.network }) {
		return fs.ErrExist
	}
	m.routes = append(m.routes, w)
	return nil
}

func (m *aMac) removeWay(w way, _ netip.Addr) error {
	m.routes = slices.DeleteFunc(m.routes, func(o way) bool { return o == w })
	return m.live()
}

func (m *aMac) device(name string) (macDevice, error) {
	d, ok := m.devices[name]
	if !ok {
		return d, fs.ErrNotExist
	}
	return d, m.live()
}

func (m *aMac) setDevice(name string, mtu int) error {
	d, err := m.device(name)
	d.up, d.mtu = true, mtu
	m.devices[name] = d
	return err
}

func (m *aMac) addAddress(name string, a netip.Addr) error {
	d, err := m.device(name)
	d.addresses = append(slices.Clone(d.addresses), a)
	m.devices[name] = d
	return err
}

func (m *aMac) token() (string, error)       { return m.kept, m.live() }
func (m *aMac) keepToken(token string) error { m.kept = token; return m.live() }
func (m *aMac) asleep() time.Duration        { return 0 }
func (m *aMac) events() (<-chan struct{}, func() error, error) {
	return nil, func() error { return nil }, nil
}

// open makes the TUN, and close takes it with everything on it.
func (m *aMac) open() { m.devices["utun637"] = macDevice{mtu: 1500} }
func (m *aMac) close() {
	delete(m.devices, "utun637")
	m.routes = slices.DeleteFunc(m.routes, func(w way) bool { return w.device == "utun637" })
}

// pristine tells whether the Mac is as it was.
func (m *aMac) pristine(t *testing.T, main string, on bool) {
	t.Helper()
	if m.main != main || m.ours != "" || m.on != on || len(m.store) != 0 || len(m.routes) != 0 || m.kept != "" {
		t.Errorf("after all was undone the Mac has main rules %q, ours %q, pf on %t, store %v, routes %v, token %q", m.main, m.ours, m.on, m.store, m.routes, m.kept)
	}
}

// closed tells whether the Mac lets nothing out that the plan does not name.
func (m *aMac) closed() bool {
	return pfHooked(m.main) && strings.HasSuffix(m.ours, "block drop in quick all\n") && m.on && !m.states
}

func TestMacApplyRevert(t *testing.T) {
	p := macPlanOf(t, macConfig)
	for name, main := range map[string]string{"as delivered": appleRules, "without rules": "", "somebody's own": "block drop in on en7 all\npass out all flags S/SA keep state\n"} {
		dir, m := t.TempDir(), newMac()
		m.main = main
		a, err := apply(&macKernel{host: m}, dir, p.Block())
		if err != nil || !m.closed() || !a.Closed() || len(m.routes) != 4 {
			t.Fatalf("%s: block gave %v and %+v", name, err, m)
		}
		m.open()
		if err := a.Change(p); err != nil {
			t.Fatal(err)
		}
		if d := m.devices["utun637"]; !d.up || len(d.addresses) != 2 || len(m.routes) != 12 || len(m.store) != 2 {
			t.Errorf("%s: captured gives device %+v, routes %v, store %v", name, d, m.routes, m.store)
		}
		if err := a.mend(func(what string) { t.Errorf("%s: mended %s, which nobody has changed", name, what) }); err != nil {
			t.Fatal(err)
		}
		m.close()
		if err := a.Change(p.Block()); err != nil || !m.closed() || len(m.routes) != 4 || m.opened {
			t.Fatalf("%s: back to the block gave %v and %+v", name, err, m)
		}
		if err := a.Revert(); err != nil {
			t.Fatal(err)
		}
		m.pristine(t, main, false)
	}
}

// TestMacMends wants every part that somebody takes away to be put back.
func TestMacMends(t *testing.T) {
	p := macPlanOf(t, macConfig)
	for name, harm := range map[string]func(m *aMac){
		"main rules loaded without the anchor": func(m *aMac) { m.main = "pass out all flags S/SA keep state\n" },
		"our rules flushed":                    func(m *aMac) { m.ours = "" },
		"our rules changed":                    func(m *aMac) { m.ours = "pass quick all\n" },
		"pf turned off":                        func(m *aMac) { m.on, m.tokens = false, nil },
		"pf off and on by others":              func(m *aMac) { m.tokens = []string{"5"} },
		"a half removed":                       func(m *aMac) { m.routes = m.routes[1:] },
		"a quarter removed":                    func(m *aMac) { m.routes = m.routes[:len(m.routes)-1] },
		"device down":                          func(m *aMac) { d := m.devices["utun637"]; d.up = false; m.devices["utun637"] = d },
	} {
		m := newMac()
		m.open()
		a, err := apply(&macKernel{host: m}, t.TempDir(), p)
		if err != nil {
			t.Fatal(err)
		}
		before, closed := len(m.routes), strings.HasPrefix(name, "a ") || name == "device down"
		harm(m)
		if got := a.Closed(); got != closed {
			t.Errorf("%s: closed is %t, want %t", name, got, closed)
		}
		mended := 0
		if err := a.mend(func(string) { mended++ }); err != nil || mended == 0 || !m.closed() || len(m.routes) != before || !m.devices["utun637"].up {
			t.Errorf("%s: mending gave %v, %d parts mended, closed %t, %d routes", name, err, mended, m.closed(), len(m.routes))
		}
		if err := a.Leave(); err != nil {
			t.Fatal(err)
		}
	}
	m := newMac()
	m.open()
	a, err := apply(&macKernel{host: m}, t.TempDir(), p)
	if err != nil {
		t.Fatal(err)
	}
	m.close()
	if err := a.mend(func(string) {}); err == nil || !m.closed() || len(m.routes) != 4 {
		t.Errorf("a TUN that has gone: mending gave %v, closed %t, routes %v; want an error and the halves", err, m.closed(), m.routes)
	}
	if err := a.Revert(); err != nil {
		t.Fatal(err)
	}
	m.pristine(t, appleRules, false)
}

// TestMacCrash lets the process die before every operation of a capture, and wants a
// later one to undo all of it, and another to take it over without opening.
func TestMacCrash(t *testing.T) {
	p := macPlanOf(t, macConfig)
	for life := 0; ; life++ {
		dir, m := t.TempDir(), newMac()
		m.open()
		m.life = life
		a, err := apply(&macKernel{host: m}, dir, p)
		if err == nil {
			if life < 20 {
				t.Errorf("a capture took %d operations only: nothing was tried", life)
			}
			if err := a.Leave(); err != nil {
				t.Fatal(err)
			}
			return
		}
		if a != nil {
			if err := a.Leave(); err != nil {
				t.Fatal(err)
			}
		}
		m.close()
		m.life = -1
		other := *m
		other.store, other.devices = maps.Clone(m.store), maps.Clone(m.devices)
		other.routes, other.tokens = slices.Clone(m.routes), slices.Clone(m.tokens)
		left, err := os.ReadFile(filepath.Join(dir, journalName))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := recoverWith(&macKernel{host: m}, dir); err != nil {
			t.Fatal(err)
		}
		// The process may die between pf being on and its token being kept: then pf stays
		// on, with the system's own rules.
		if lost := len(m.tokens) > 0 && m.kept == ""; lost {
			m.tokens, m.on = nil, false
		}
		m.pristine(t, appleRules, false)

		takeover := t.TempDir()
		if err := os.WriteFile(filepath.Join(takeover, journalName), left, 0o600); err != nil {
			t.Fatal(err)
		}
		was := other.closed()
		b, err := apply(&macKernel{host: &other}, takeover, p.Block())
		if err != nil || !other.closed() || was && other.opened {
			t.Fatalf("after %d operations: taking over gave %v, closed %t, opened %t", life, err, other.closed(), other.opened)
		}
		if err := b.Leave(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestMacTakesWarning(t *testing.T) {
	m := newMac()
	m.skip = " (skip)"
	a, err := apply(&macKernel{host: m}, t.TempDir(), macPlanOf(t, macConfig).Block())
	if err == nil || !strings.Contains(err.Error(), "en0") {
		t.Errorf("pf that skips en0 gave the error %v", err)
	}
	if err := a.Revert(); err != nil {
		t.Fatal(err)
	}
	m = newMac()
	m.on, m.tokens = true, []string{"7"} // Internet Sharing, for example
	if a, err = apply(&macKernel{host: m}, t.TempDir(), macPlanOf(t, macConfig).Block()); err != nil {
		t.Fatal(err)
	}
	if err := a.Revert(); err != nil {
		t.Fatal(err)
	}
	m.pristine(t, appleRules, true)
	m = newMac()
	if a, err = apply(&macKernel{host: m}, t.TempDir(), macPlanOf(t, macConfig).Block()); err != nil {
		t.Fatal(err)
	}
	m.main = "pass out on en7 all\n" // loaded by somebody meanwhile: not ours to change back
	if err := a.Revert(); err != nil {
		t.Fatal(err)
	}
	m.pristine(t, "pass out on en7 all\n", false)
}

func TestPFAnswers(t *testing.T) {
	for said, want := range map[string]string{
		"pf enabled\nToken : 12345678901234567890\n": "12345678901234567890",
		"Token : \n":                    "",
		"Token : 12; rm -rf /\n":        "",
		"pf already enabled\n":          "",
		"Token : 123456789012345678901": "", // longer than 64 bits
	} {
		if got := pfToken(said); got != want {
			t.Errorf("token in %q is %q, want %q", said, got, want)
		}
	}
	for info, want := range map[string]bool{"Status: Enabled for 3 days\n": true, "No ALTQ support\nStatus: Disabled for 0 days\n": false, "": false, "Enabled\n": false} {
		if got := pfOn(info); got != want {
			t.Errorf("pf is on by %q: %t, want %t", info, got, want)
		}
	}
	if got, want := pfSkipped("ALL\nen0 (skip)\nlo0 (skip)\nlo\nutun0\n"), []string{"en0"}; !reflect.DeepEqual(got, want) {
		t.Errorf("skipped are %q, want %q", got, want)
	}
	if pfRefers("TOKENS:\n12 pfctl 1234\n", "123") {
		t.Error("a part of a token is a token")
	}
	for rules, want := range map[string]bool{
		appleRules: true, "anchor \"com.apple/*\" all\npass all\n": true,
		"": false, "pass all\nanchor \"com.apple/*\" all\n": false, "scrub in all\n": false, "anchor \"com.apple/*\" out all\n": false,
	} {
		if got := pfHooked(rules); got != want {
			t.Errorf("hooked by %q: %t, want %t", rules, got, want)
		}
	}
}

func FuzzPFRules(f *testing.F) {
	f.Add(appleRules)
	f.Add("pass all\nanchor \"com.apple/*\" all\nscrub in all\n")
	f.Fuzz(func(t *testing.T, rules string) {
		once := pfHookInto(rules)
		if !pfHooked(once) {
			t.Errorf("%q with the hook is %q, which does not evaluate it first", rules, once)
		}
		if twice := pfHookInto(once); twice != once {
			t.Errorf("%q with the hook is %q, and with it once more %q", rules, once, twice)
		}
		if token := pfToken(rules); token != "" && !isNumber(token) {
			t.Errorf("token %q is no number", token)
		}
		_, _ = pfOn(rules), pfSkipped(rules)
	})
}

func FuzzStoredArray(f *testing.F) {
	f.Add("<dictionary> {\n  ServerAddresses : <array> {\n    0 : 10.255.255.53\n    1 : fd63:7574:746c::53\n  }\n  X : <array> {\n    0 : y\n  }\n}\n")
	f.Add("  No such key\n")
	f.Fuzz(func(t *testing.T, shown string) {
		if got := storedArray(shown, "ServerAddresses"); len(got) > maxStored {
			t.Errorf("%d entries were read, want at most %d", len(got), maxStored)
		}
	})
}

func TestStoredArray(t *testing.T) {
	shown := "<dictionary> {\n  DomainName : lan\n  SearchDomains : <array> {\n    0 : lan\n  }\n  ServerAddresses : <array> {\n    0 : 10.255.255.53\n    1 : fd63:7574:746c::53\n  }\n}\n"
	if got, want := storedArray(shown, "ServerAddresses"), []string{"10.255.255.53", "fd63:7574:746c::53"}; !slices.Equal(got, want) {
		t.Errorf("read %q, want %q", got, want)
	}
	if got := storedArray("  No such key\n", "ServerAddresses"); len(got) != 0 {
		t.Errorf("read %q of a key that is not there", got)
	}
}

// TestMacFaults lets each program of the system fail, and wants what else keeps
// traffic in to be put in force.
func TestMacFaults(t *testing.T) {
	for _, fault := range []string{"/sbin/pfctl -s rules", "/sbin/pfctl -F states", "/sbin/pfctl -v -s Interfaces", "/sbin/pfctl -E", "/sbin/pfctl -a com.apple/000.cuttle -f -"} {
		m := newMac()
		m.fault = fault
		a, err := apply(&macKernel{host: m}, t.TempDir(), macPlanOf(t, macConfig).Block())
		if err == nil || !strings.Contains(err.Error(), strings.Fields(fault)[0]) {
			t.Errorf("%s fails: the error is %v", fault, err)
		}
		if len(m.routes) != 4 || m.on == (fault == "/sbin/pfctl -E") || (m.ours == "") != strings.HasSuffix(fault, "-f -") {
			t.Errorf("%s fails: %d routes, pf on %t, our rules %q; want all that can be", fault, len(m.routes), m.on, m.ours)
		}
		m.fault = ""
		if err := a.Revert(); err != nil {
			t.Fatal(err)
		}
		m.pristine(t, appleRules, false)
	}
}
