package lan

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

func server(t testing.TB, file string) *Server {
	t.Helper()
	s, err := New(Config{
		Device: "lan0", Address: netip.MustParsePrefix("192.168.77.1/28"), Network6: netip.MustParsePrefix("fd77:1:2:3::/64"),
		DNS: []netip.Addr{netip.MustParseAddr("10.255.255.53"), netip.MustParseAddr("fd63:7574:746c::53")}, Lease: time.Hour, File: file,
		Refused: func(mac string) bool { return mac == "02:00:00:00:00:ff" }, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mac(n byte) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 0, n} }

var nobody = &net.UDPAddr{IP: net.IPv4zero, Port: 68}

// ask sends a message and gives the answer, nil for none.
func ask(t *testing.T, s *Server, now time.Time, m *dhcpv4.DHCPv4, err error) *dhcpv4.DHCPv4 {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	b, _ := s.message(m.ToBytes(), nobody, now)
	if b == nil {
		return nil
	}
	reply, err := dhcpv4.FromBytes(b)
	if err != nil {
		t.Fatal(err)
	}
	return reply
}

// lease goes through the whole exchange.
func lease(t *testing.T, s *Server, now time.Time, n byte) netip.Addr {
	t.Helper()
	discover, err := dhcpv4.NewDiscovery(mac(n), dhcpv4.WithOption(dhcpv4.OptHostName(fmt.Sprintf("host\x1b%d", n))))
	offer := ask(t, s, now, discover, err)
	if offer == nil {
		return netip.Addr{}
	}
	request, err := dhcpv4.NewRequestFromOffer(offer, dhcpv4.WithOption(dhcpv4.OptHostName(fmt.Sprintf("host\x1b%d", n))))
	ack := ask(t, s, now, request, err)
	if ack == nil || ack.MessageType() != dhcpv4.MessageTypeAck {
		t.Fatalf("request was answered with %v", ack)
	}
	if got := ack.Router(); len(got) != 1 || got[0].String() != "192.168.77.1" {
		t.Errorf("router is %v", got)
	}
	if got := ack.DNS(); len(got) != 1 || got[0].String() != "10.255.255.53" {
		t.Errorf("name servers are %v", got)
	}
	if got := ack.IPAddressLeaseTime(0); got != time.Hour {
		t.Errorf("lease is for %v", got)
	}
	return address(ack.YourIPAddr)
}

func TestLeases(t *testing.T) {
	file := filepath.Join(t.TempDir(), "leases.json")
	s := server(t, file)
	now := time.Now()
	seen := make(map[netip.Addr]byte)
	for n := byte(1); n <= 13; n++ { // 14 hosts in a /28, one is the router
		a := lease(t, s, now, n)
		if other, twice := seen[a]; twice || !s.table.usable(a) {
			t.Fatalf("host %d got %v, as host %d", n, a, other)
		}
		seen[a] = n
	}
	if a := lease(t, s, now, 14); a.IsValid() {
		t.Errorf("the network is full, host 14 got %v", a)
	}
	first := lease(t, s, now.Add(time.Minute), 1)
	if seen[first] != 1 {
		t.Errorf("host 1 came back and got %v, which is host %d's", first, seen[first])
	}
	list := s.Leases()
	if len(list) != 13 || list[0].Name != "host1" {
		t.Errorf("leases are %+v", list)
	}
	if err := s.table.save(); err != nil {
		t.Fatal(err)
	}
	if again := server(t, file); len(again.Leases()) != 13 || lease(t, again, now, 7) == (netip.Addr{}) {
		t.Errorf("after a restart leases are %+v", again.Leases())
	}
	// Later the one that ended first is given away.
	if a := lease(t, s, now.Add(2*time.Hour), 15); seen[a] == 0 || seen[a] == 1 {
		t.Errorf("host 15 got %v of host %d, want one of a host that has gone", a, seen[a])
	}
}

func TestRefusals(t *testing.T) {
	s, now := server(t, ""), time.Now()
	blocked, err := dhcpv4.NewDiscovery(mac(0xff))
	if reply := ask(t, s, now, blocked, err); reply != nil {
		t.Errorf("a blocked device was answered with %v", reply)
	}
	a := lease(t, s, now, 1)
	taken, err := dhcpv4.New(dhcpv4.WithHwAddr(mac(2)), dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest), dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(a.AsSlice())))
	if reply := ask(t, s, now, taken, err); reply == nil || reply.MessageType() != dhcpv4.MessageTypeNak {
		t.Errorf("a request for another's address was answered with %v", reply)
	}
	foreign, err := dhcpv4.New(dhcpv4.WithHwAddr(mac(2)), dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest), dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(net.IPv4(8, 8, 8, 8))))
	if reply := ask(t, s, now, foreign, err); reply == nil || reply.MessageType() != dhcpv4.MessageTypeNak {
		t.Errorf("a request for an address elsewhere was answered with %v", reply)
	}
	decline, err := dhcpv4.New(dhcpv4.WithHwAddr(mac(1)), dhcpv4.WithMessageType(dhcpv4.MessageTypeDecline), dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(a.AsSlice())))
	ask(t, s, now, decline, err)
	if b := lease(t, s, now, 1); b == a {
		t.Errorf("an address that was declined was given again")
	}
}

func TestConfigRefusals(t *testing.T) {
	good := server(t, "").cfg
	for name, change := range map[string]func(*Config){
		"no device": func(c *Config) { c.Device = "" }, "too small": func(c *Config) { c.Address = netip.MustParsePrefix("10.0.0.1/30") },
		"ipv6": func(c *Config) { c.Address = netip.MustParsePrefix("fd00::1/64") }, "not 64": func(c *Config) { c.Network6 = netip.MustParsePrefix("fd00::/56") },
		"short": func(c *Config) { c.Lease = time.Second },
	} {
		c := good
		change(&c)
		if _, err := New(c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func FuzzMessage(f *testing.F) {
	s := server(f, "")
	d, _ := dhcpv4.NewDiscovery(mac(1))
	f.Add(d.ToBytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		reply, _ := s.message(b, nobody, time.Unix(1e9, 0))
		if reply == nil {
			return
		}
		if _, err := dhcpv4.FromBytes(reply); err != nil {
			t.Errorf("reply does not parse: %v", err)
		}
		if len(s.table.leases) > maxLeases || len(s.table.leases) != len(s.table.taken) {
			t.Errorf("%d leases, %d addresses taken", len(s.table.leases), len(s.table.taken))
		}
	})
}

func FuzzRestore(f *testing.F) {
	f.Add([]byte(`[{"mac":"02:00:00:00:00:01","address":"192.168.77.3","until":"2026-01-01T00:00:00Z"}]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s := server(t, "")
		s.table.restore(b)
		for _, l := range s.table.leases {
			if !s.table.usable(l.Address) || s.table.taken[l.Address] != l.MAC {
				t.Errorf("restored %+v", l)
			}
		}
	})
}

// TestTableIsBounded wants hosts that name the address they want not to get around
// the bound, and not to push out those that have one.
func TestTableIsBounded(t *testing.T) {
	table, now := newTable(netip.MustParsePrefix("10.0.0.1/16"), time.Hour, ""), time.Now()
	wanted := netip.MustParseAddr("10.0.1.0")
	given := 0
	for i := range maxLeases + 100 {
		mac := net.HardwareAddr{2, 0, 0, 0, byte(i >> 8), byte(i)}.String()
		if _, ok := table.offer(mac, wanted, now); ok {
			given++
		}
		wanted = wanted.Next()
	}
	if given != maxLeases || len(table.leases) != maxLeases || len(table.taken) != maxLeases {
		t.Errorf("%d addresses were given, %d leases and %d addresses are kept, want %d", given, len(table.leases), len(table.taken), maxLeases)
	}
}

func TestLeaseFileIsNoLoss(t *testing.T) {
	dir := t.TempDir()
	large := filepath.Join(dir, "large")
	if err := errors.Join(os.WriteFile(large, nil, 0o600), os.Truncate(large, maxFile+1), os.Mkdir(filepath.Join(dir, "folder"), 0o700)); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{large, filepath.Join(dir, "folder"), filepath.Join(dir, "none")} {
		if s := server(t, file); lease(t, s, time.Now(), 1) == (netip.Addr{}) {
			t.Errorf("with %s no lease is given", filepath.Base(file))
		}
	}
}
