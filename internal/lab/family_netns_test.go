//go:build linux && netns

package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"cuttle/internal/control"
	"cuttle/internal/lab/emulate"
	"cuttle/internal/lab/netns"
)

// TestIPv6WhereItIs: flows of IPv6 go to the exit that has it. When the only exit
// that is wanted has none, a program that has looked up both addresses and tries IPv6
// first is refused without a round trip and goes on with IPv4.
func TestIPv6WhereItIs(t *testing.T) {
	o := options(t)
	o.Exits, o.NoIPv6 = 2, 1
	l := up(t, o)
	c, err := l.Control("client")
	if err != nil {
		t.Fatal(err)
	}
	with, ok := l.plan.Node("n4")
	if !ok || with.NoIPv6 {
		t.Fatalf("the last exit: %+v", with)
	}
	for range 3 {
		if got, err := get(t, l, "client", "http://v6.lab/ip"); err != nil || !slices.Contains(with.Hosts(), netip.MustParseAddr(got)) {
			t.Errorf("over IPv6 the server sees %q, %v; want the exit that has it", got, err)
		}
		if _, err := c.NewPath(t.Context()); err != nil {
			t.Fatal(err)
		}
	}

	if _, err := c.UpWith(t.Context(), control.UpOptions{Exit: []string{l.state.Keys["n3"]}}); err != nil {
		t.Fatal(err)
	}
	addrs := lookUp(t, l, "dual.lab.")
	if !slices.Equal(addrs, []netip.Addr{webV4, publicV6}) {
		t.Fatalf("dual.lab has %v, want both addresses: what exits have is nothing that names tell", addrs)
	}
	const delay = 500 * time.Millisecond // of each of the three links: a round trip takes 3 s
	for _, pair := range l.plan.Shaped() {
		if err := l.SetLink(t.Context(), pair[0].Name, pair[1].Name, emulate.Shape{Delay: delay}); err != nil {
			t.Fatal(err)
		}
	}
	var refused, connected time.Duration
	n, _ := l.node("client")
	err = netns.Do(n.Namespace, func() error {
		start := time.Now()
		if err := connect(publicV6); !errors.Is(err, unix.ENETUNREACH) {
			return fmt.Errorf("IPv6: got %w, want network unreachable", err)
		}
		refused = time.Since(start)
		if err := connect(webV4); err != nil {
			return fmt.Errorf("IPv4: %w", err)
		}
		connected = time.Since(start)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("IPv6 was refused after %v, IPv4 connected after %v", refused, connected)
	if roundTrip := 6 * delay; refused >= roundTrip || connected < roundTrip {
		t.Errorf("IPv6 was refused after %v and IPv4 connected after %v; a round trip takes %v", refused, connected, roundTrip)
	}
}

// connect opens a TCP connection from the calling thread's namespace, as programs do
// that try one address after the other.
func connect(to netip.Addr) error {
	family, sa := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: 80, Addr: [4]byte(to.AsSlice()[:4])})
	if to.Is6() {
		family, sa = unix.AF_INET6, &unix.SockaddrInet6{Port: 80, Addr: to.As16()}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Connect(fd, sa)
}

// lookUp asks for both kinds of addresses from the client's namespace.
func lookUp(t *testing.T, l *Lab, name string) (addrs []netip.Addr) {
	t.Helper()
	n, err := l.node("client")
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []uint16{dns.TypeA, dns.TypeAAAA} {
		var answer *dns.Msg
		err := netns.Do(n.Namespace, func() (err error) {
			q := new(dns.Msg).SetQuestion(name, kind)
			answer, _, err = (&dns.Client{Timeout: 30 * time.Second}).ExchangeContext(t.Context(), q, "192.0.2.53:53")
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range answer.Answer {
			switch r := r.(type) {
			case *dns.A:
				a, _ := netip.AddrFromSlice(r.A.To4())
				addrs = append(addrs, a)
			case *dns.AAAA:
				a, _ := netip.AddrFromSlice(r.AAAA)
				addrs = append(addrs, a)
			}
		}
	}
	return addrs
}
