package obfs_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"cuttle/obfs"
	"cuttle/obfs/plain"
	"cuttle/relay/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	nodeText = wire.NodeID{1, 2, 3, 31: 7}.String()
	pinText  = strings.Repeat("A", 43)
)

func TestDescriptor(t *testing.T) {
	for _, c := range []struct {
		name, in, want string // want "" when it is canonical already
	}{
		{"opens the link to us", "cuttle://" + nodeText, ""},
		{"one address", "cuttle://" + nodeText + "@203.0.113.5:443?mask=https", ""},
		{"default mask", "cuttle://" + nodeText + "@203.0.113.5:443", "cuttle://" + nodeText + "@203.0.113.5:443?mask=https"},
		{"IPv6 and a name", "cuttle://" + nodeText + "@[2001:DB8::1]:443,Node.Example.org:8443?mask=plain",
			"cuttle://" + nodeText + "@[2001:db8::1]:443,node.example.org:8443?mask=plain"},
		{"parameters in any order", "cuttle://" + nodeText + "@a:1?pin=" + pinText + "&name=WWW.example.org&mask=https",
			"cuttle://" + nodeText + "@a:1?mask=https&name=www.example.org&pin=" + pinText},
		{"upper case key", "cuttle://" + strings.ToUpper(nodeText), "cuttle://" + nodeText},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, err := obfs.ParseDescriptor(c.in)
			if err != nil {
				t.Fatal(err)
			}
			want := c.want
			if want == "" {
				want = c.in
			}
			if got := d.String(); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
			if got := len(d.Endpoints()); got != len(d.Addresses) {
				t.Errorf("endpoints: got %d, want %d", got, len(d.Addresses))
			}
		})
	}
}

func TestDescriptorRefused(t *testing.T) {
	at := "cuttle://" + nodeText + "@"
	for _, c := range []struct{ name, in, names string }{
		{"empty", "", "cuttle://"},
		{"other scheme", "https://example.org", "cuttle://"},
		{"short key", "cuttle://abc@h:1", "node address"},
		{"unknown parameter", at + "h:1?mask=https&host=x", `"host"`},
		{"parameter twice", at + "h:1?name=a&name=b", `"name"`},
		{"parameter without value", at + "h:1?name=", "name=value"},
		{"empty query", at + "h:1?", "name=value"},
		{"bad pin", at + "h:1?pin=abc", `"pin"`},
		{"pin with a line break", at + "h:1?pin=" + strings.Repeat("A", 42) + "\nA", `"pin"`},
		{"bad name", at + "h:1?name=a_b", `"name"`},
		{"bad mask", at + "h:1?mask=Https", `"mask"`},
		{"parameters without address", "cuttle://" + nodeText + "?mask=https", "without an address"},
		{"no address after @", at, "address 1"},
		{"no port", at + "h", "address 1"},
		{"port 0", at + "h:0", "port"},
		{"port with zeros", at + "h:0443", "port"},
		{"port too big", at + "h:65536", "port"},
		{"second address bad", at + "h:1,:2", "address 2"},
		{"address twice", at + "h:1,H:1", "twice"},
		{"IPv6 zone", at + "[fe80::1%eth0]:1", "IPv6"},
		{"IPv4 in brackets", at + "[1.2.3.4]:1", "IPv6"},
		{"number as host", at + "12345:1", "number"},
		{"half an IP address", at + "1.2.3:1", "number"},
		{"too many addresses", at + strings.Repeat("h:1,", 8) + "i:1", "8"},
		{"too long", at + strings.Repeat("a.", 600) + "b:1", "1024"},
		{"a space", at + "h :1", "address 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, err := obfs.ParseDescriptor(c.in)
			if err == nil {
				t.Fatalf("got %v, want an error", d)
			}
			if !strings.Contains(err.Error(), c.names) {
				t.Errorf("the error does not name %s: %v", c.names, err)
			}
		})
	}
}

func TestDescriptorKeepsAddressesOutOfLogs(t *testing.T) {
	d, err := obfs.ParseDescriptor("cuttle://" + nodeText + "@203.0.113.5:443")
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("link", "to", d)
	if got := log.String(); strings.Contains(got, "203.0.113.5") || !strings.Contains(got, nodeText) {
		t.Errorf("logged %q, want the node address only", got)
	}
}

func FuzzDescriptor(f *testing.F) {
	f.Add("cuttle://" + nodeText)
	f.Add("cuttle://" + nodeText + "@203.0.113.5:443,[2001:db8::1]:8443,a.example:1?mask=https&name=www.example.org&pin=" + pinText)
	f.Add("cuttle://" + nodeText + "@h:1?mask=plain&colour=blue")
	f.Fuzz(func(t *testing.T, s string) {
		d, err := obfs.ParseDescriptor(s)
		if err != nil {
			return
		}
		again, err := obfs.ParseDescriptor(d.String())
		if err != nil {
			t.Fatalf("%q: its own text %q is refused: %v", s, d.String(), err)
		}
		if again.String() != d.String() || !slices.Equal(again.Addresses, d.Addresses) {
			t.Fatalf("%q: %q became %q", s, d, again)
		}
		for _, e := range d.Endpoints() {
			if _, _, err := net.SplitHostPort(e.Address); err != nil {
				t.Fatalf("%q: endpoint: %v", s, err)
			}
		}
	})
}

func TestScrub(t *testing.T) {
	const secret = "203.0.113.5"
	address := &net.TCPAddr{IP: net.ParseIP(secret), Port: 443}
	op := &net.OpError{Op: "dial", Net: "tcp", Addr: address, Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	for _, c := range []struct {
		in   error
		is   error
		want string
	}{
		{op, syscall.ECONNREFUSED, "dial: connect: connection refused"},
		{fmt.Errorf("link to %s: %w", secret, op), syscall.ECONNREFUSED, "dial: connect: connection refused"},
		{&net.DNSError{Err: "no such host", Name: secret, Server: secret, IsNotFound: true}, nil, "lookup: no such host"},
		{&net.OpError{Op: "dial", Err: &net.DNSError{Name: secret, IsTimeout: true}}, nil, "dial: lookup: timed out"},
		{&net.AddrError{Err: "missing port", Addr: secret}, nil, "address: missing port"},
		{net.InvalidAddrError(secret), nil, "address: not usable"},
		{context.DeadlineExceeded, context.DeadlineExceeded, context.DeadlineExceeded.Error()},
	} {
		got := obfs.Scrub(c.in)
		if got.Error() != c.want {
			t.Errorf("Scrub(%v): got %q, want %q", c.in, got, c.want)
		}
		if c.is != nil && !errors.Is(got, c.is) {
			t.Errorf("Scrub(%v) is not %v any more", c.in, c.is)
		}
	}
	if obfs.Scrub(nil) != nil {
		t.Error("Scrub(nil) is not nil")
	}
	var n net.Error
	timeout := obfs.Scrub(&net.OpError{Op: "read", Addr: address, Err: os.ErrDeadlineExceeded})
	if !errors.As(timeout, &n) || !n.Timeout() {
		t.Errorf("%v does not tell that it is a timeout", timeout)
	}
}

func TestOnlyAndFind(t *testing.T) {
	if err := obfs.Only(map[string]string{"cert": "", "zone": "", "cart": ""}, "cert"); err == nil || !strings.Contains(err.Error(), `"cart"`) {
		t.Errorf("unknown option: got %v, want an error that names cart", err)
	}
	if err := obfs.Only(map[string]string{"cert": ""}, "cert", "key"); err != nil {
		t.Errorf("known option: %v", err)
	}
	masks := []obfs.Mask{plain.Mask{}}
	if m, err := obfs.Find(masks, "plain"); err != nil || m.Name() != "plain" {
		t.Errorf("find plain: %v, %v", m, err)
	}
	if _, err := obfs.Find(masks, "https"); err == nil || !strings.Contains(err.Error(), "plain") {
		t.Errorf("find what is not there: got %v, want an error that lists plain", err)
	}
}
