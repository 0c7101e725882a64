package wire

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
)

func TestDestinationHides(t *testing.T) {
	d := testDestination("198.51.100.77:61234")
	type private struct{ d Destination } // fmt cannot call methods on an unexported field
	type flow struct {
		D Destination
		P *Destination
		L []Destination
	}
	values := []any{d, &d, []Destination{d}, map[string]Destination{"k": d}, private{d}, &private{d}, flow{d, &d, []Destination{d}},
		fmt.Errorf("open %v: %w", d, fmt.Errorf("inner %s", d)), SessionFrame{Destination: d}}
	var out bytes.Buffer
	for _, v := range values {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x", "%X", "%T", "%p", "%t", "%b", "%08.3f", "%U", "%z"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		fmt.Fprintln(&out, v)
		for _, h := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
			slog.New(h).Info("flow", "d", v, slog.Group("g", "d", v))
		}
		if b, err := json.Marshal(v); err == nil {
			out.Write(b)
		}
	}
	// As text, as the bytes of the address, and as the number netip keeps them in.
	canaries := []string{"198.51.100", "198 51 100", "c633644d", ":61234", fmt.Sprint(int64(0xffffc633644d)), fmt.Sprintf("%b", int64(0xffffc633644d))}
	for _, canary := range canaries {
		if printed := strings.ToLower(out.String()); strings.Contains(printed, canary) {
			t.Errorf("%q was printed", canary)
		}
	}
	if !strings.Contains(out.String(), hidden) {
		t.Error("nothing printed at all")
	}
	if got := d.Reveal(); got != netip.MustParseAddrPort("198.51.100.77:61234") {
		t.Error("Reveal gives another destination")
	}
}

func TestDestinationForms(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.1:80":          "192.0.2.1:80",
		"[::ffff:192.0.2.1]:80": "192.0.2.1:80",
		"[fe80::1%eth0]:0":      "[fe80::1]:0",
		"[2001:db8::2]:65535":   "[2001:db8::2]:65535",
	} {
		d := testDestination(in)
		if got := d.Reveal().String(); got != want {
			t.Errorf("destination %s reveals %s, want %s", in, got, want)
		}
		got, n, err := parseDestination(d.appendTo(nil))
		if err != nil || got.Reveal() != d.Reveal() || n != len(d.appendTo(nil)) {
			t.Errorf("destination %s does not survive a round trip: %v", in, err)
		}
	}
	if d := NewDestination(netip.AddrPort{}); !d.IsZero() || d.Reveal().IsValid() {
		t.Error("an invalid address is a destination")
	}
}
