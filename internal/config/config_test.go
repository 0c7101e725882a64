package config

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"cuttle/relay/exit"
)

func TestDefaultIsComplete(t *testing.T) {
	c, err := Parse(nil)
	if err != nil {
		t.Fatal(err)
	}
	if c.Client.Hops != 3 || c.Tun.Mark != 0x6375 || time.Duration(c.Billing.Scan) != time.Hour {
		t.Errorf("defaults: hops %d, mark %#x, scan %v", c.Client.Hops, c.Tun.Mark, c.Billing.Scan)
	}
}

// Every bad input gets an error that names the key (and the line, where the
// file's text is at fault) and says what to write.
func TestBadInput(t *testing.T) {
	for name, tc := range map[string]struct{ in, want string }{
		"unknown key":      {"[client]\nhops = 3\nhopps = 4\n", `line 3: unknown key "client.hopps"`},
		"unknown table":    {"[klient]\nhops = 3\n", `line 1: unknown key "klient"`},
		"not toml":         {"[client\n", "line 1"},
		"wrong type":       {"[client]\nhops = \"three\"\n", "line 2"},
		"rare scan":        {"[billing]\nmode = \"account\"\nscan = \"96h\"\n", "24h0m0s at most"},
		"bad duration":     {"[billing]\nscan = \"soon\"\n", "is not a duration"},
		"hops":             {"[client]\nhops = 7\n", "client.hops 7: want 1 to 6"},
		"isolate":          {"[client]\nisolate = [\"host\"]\n", "client.isolate"},
		"memory":           {"[relay]\nmemory = 1\n", "relay.memory 1"},
		"exit no relay":    {"[node]\nexit = true\n", "node.exit needs node.relay"},
		"relay alone":      {"[node]\nrelay = true\n", "needs a [[listen]]"},
		"listen address":   {"[[listen]]\nmask = \"plain\"\naddress = \"host\"\n", "want IP:port"},
		"listen mask":      {"[[listen]]\naddress = \"0.0.0.0:1\"\n", "mask is missing"},
		"client no guard":  {"[client]\nenabled = true\n", "[[neighbor]]"},
		"bad network":      {"[exit]\nallow = [\"10.0.0.0\"]\n", "line 2"},
		"allow of public":  {"[exit]\nallow = [\"8.0.0.0/8\"]\n", "exit.policy"},
		"second resolver":  {"[exit]\nresolver = \"9.9.9.9 https://dns.quad9.net/dns-query\"\n", "address is missing"},
		"exit times":       {"[exit]\ntcp_idle = \"1s\"\n", "exit.tcp_idle"},
		"exit limits":      {"[exit]\nqueries = 0\n", "exit.queries"},
		"policy":           {"[exit]\npolicy = [\"allow everything\"]\n", "allow tcp *:443"},
		"resolver":         {"[exit]\nresolver = \"dns\"\n", "exit.resolver"},
		"billing mode":     {"[billing]\nmode = \"free\"\n", "want none, account or paid"},
		"no rpc":           {"[billing]\nmode = \"paid\"\n", "billing.rpc is empty"},
		"bad rpc":          {"[billing]\nmode = \"paid\"\nrpc = [\"chain:8545\"]\n", "http://"},
		"no wallet":        {"[client]\nenabled = true\n[[neighbor]]\ndescriptor = \"x\"\n[billing]\nmode = \"paid\"\nrpc = [\"http://c\"]\n", "consuming wallet"},
		"no password":      {"[billing]\nmode = \"paid\"\nrpc = [\"http://c\"]\nconsuming = \"w\"\n", "password_file"},
		"amount":           {"[billing]\nmode = \"paid\"\nrpc = [\"http://c\"]\ncredit = \"1e3\"\n", "billing.credit"},
		"amount too fine":  {"[billing]\nmode = \"paid\"\nrpc = [\"http://c\"]\ncredit = \"0.0000000001\"\n", "at most 9 decimals"},
		"table":            {"[tun]\ntable = 254\n", "tun.table 254"},
		"mark":             {"[tun]\nmark = 0\n", "tun.mark"},
		"tun name":         {"[tun]\nname = \"a/b\"\n", "tun.name"},
		"country":          {"[node]\ncountry = \"de\"\n", "node.country"},
		"empty state":      {"[node]\nstate = \"\"\n", "node.state"},
		"missing neighbor": {"[[neighbor]]\n", "descriptor is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse([]byte(tc.in))
			if err == nil {
				t.Fatalf("Parse(%q) = nil error, want one with %q", tc.in, tc.want)
			}
			if !strings.Contains(err.Error(), tc.want) {
				t.Errorf("Parse(%q) = %q, want it to contain %q", tc.in, err, tc.want)
			}
		})
	}
}

func TestAmount(t *testing.T) {
	for in, want := range map[string]int64{"0": 0, "1": 1e9, "0.05": 5e7, "0.000000001": 1, "9000000000": 9e18} {
		if got, err := Amount(in); err != nil || got != want {
			t.Errorf("Amount(%q) = %d, %v; want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "-1", "1/2", "x", "1e3", "99999999999"} {
		if got, err := Amount(in); err == nil {
			t.Errorf("Amount(%q) = %d, want an error", in, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(defaultFile)
	f.Add([]byte("[client]\nhops = 3\n[[listen]]\nmask=\"plain\"\n"))
	f.Fuzz(func(_ *testing.T, b []byte) { _, _ = Parse(b) })
}

// TestWhoNeedsAWallet: a client on a paid network, and nobody else.
func TestWhoNeedsAWallet(t *testing.T) {
	const paid = "[billing]\nmode = \"paid\"\nrpc = [\"http://c\"]\nearning = \"0x1\"\n"
	const client = "[client]\nenabled = true\n[[neighbor]]\ndescriptor = \"x\"\n"
	const relay = "[node]\nrelay = true\n[[neighbor]]\ndescriptor = \"x\"\n"
	for name, c := range map[string]struct {
		in string
		ok bool
	}{
		"client, paid":             {client + paid, false},
		"client and relay, paid":   {relay + "[client]\nenabled = true\n" + paid, false},
		"client, paid, wallet":     {client + paid + "consuming = \"w\"\npassword_file = \"prompt\"\n", true},
		"relay, paid":              {relay + paid, true},
		"client, account":          {client + "[billing]\nmode = \"account\"\n", true},
		"client, nobody is billed": {client, true},
	} {
		_, err := Parse([]byte(c.in))
		if (err == nil) != c.ok {
			t.Errorf("%s: %v, want ok %v", name, err, c.ok)
		}
		if !c.ok && err != nil {
			for _, word := range []string{"billing.consuming", "cuttle wallet new", "send token"} { // what is missing and how to get it
				if !strings.Contains(err.Error(), word) {
					t.Errorf("%s: %q does not say %q", name, err, word)
				}
			}
		}
	}
}

// TestDefaultPolicy: the default file's rules keep what gets an exit blocked away
// from it, and rules of exit.allow come first.
func TestDefaultPolicy(t *testing.T) {
	c, err := Parse([]byte("[exit]\nallow = [\"10.9.0.0/16\"]\n"))
	if err != nil {
		t.Fatal(err)
	}
	p, err := exit.ParsePolicy(c.Exit.Rules())
	if err != nil {
		t.Fatal(err)
	}
	for dst, want := range map[string]bool{
		"8.8.8.8:443": true, "8.8.8.8:587": true, "8.8.8.8:25": false, "8.8.8.8:445": false, "8.8.8.8:137": false,
		"10.9.0.1:80": true, "10.8.0.1:80": false, "127.0.0.1:80": false, "[2a00::1]:443": true, "[fd00::1]:443": false,
	} {
		if got := p.Check(exit.TCP, netip.MustParseAddrPort(dst), nil) == nil; got != want {
			t.Errorf("%s: allowed %v, want %v", dst, got, want)
		}
	}
}
