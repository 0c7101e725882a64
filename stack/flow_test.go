package stack

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
)

func TestFlowHidesItself(t *testing.T) {
	f := NewFlow(netip.MustParseAddrPort("192.0.2.77:4242"), netip.MustParseAddrPort("198.51.100.88:4343"))
	type holder struct {
		flow Flow
		Open *Flow
	}
	h := holder{flow: f, Open: &f}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&out, verb+verb+verb, f, h, &h)
	}
	log := slog.New(slog.NewJSONHandler(&out, nil))
	log.Info("text", "flow", f, "holder", h)
	slog.New(slog.NewTextHandler(&out, nil)).Info("text", "flow", f, "holder", h)
	b, err := json.Marshal(struct{ F Flow }{f})
	if err != nil {
		t.Fatal(err)
	}
	out.Write(b)
	for _, secret := range []string{"192.0.2", "198.51.100", "4242", "4343", "c0000", "c633"} {
		if strings.Contains(out.String(), secret) {
			t.Errorf("printed flow shows %q in %s", secret, out.String())
		}
	}
	if f.Src().Port() != 4242 || f.Dst().Port() != 4343 || (Flow{}).Dst().IsValid() {
		t.Error("flow lost its addresses")
	}
}
