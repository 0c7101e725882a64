//go:build linux

package peer

import (
	"errors"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestMissing: without its program no peer starts anything.
func TestMissing(t *testing.T) {
	for _, p := range All() {
		if _, err := p.Start(t.Context(), nil, t.TempDir(), "client", []string{"n1"}); !errors.Is(err, ErrMissing) {
			t.Errorf("%s without its program: %v, want ErrMissing", p.Key, err)
		}
	}
}

// TestTorsWords: what tor and tor-gencert print is understood.
func TestTorsWords(t *testing.T) {
	const certificate = "dir-key-certificate-version 3\ndir-address 10.77.1.2:7000\nfingerprint 0123456789ABCDEF0123456789ABCDEF01234567\n"
	if m := v3Identity.FindStringSubmatch(certificate); m == nil || m[1] != "0123456789ABCDEF0123456789ABCDEF01234567" {
		t.Errorf("identity in a certificate: %q", m)
	}
	const printed = "n1 0123 4567 89AB CDEF 0123 4567 89AB CDEF 0123 4567\n"
	if m := fingerprint.FindStringSubmatch(printed); m == nil || m[1] != "0123 4567 89AB CDEF 0123 4567 89AB CDEF 0123 4567" {
		t.Errorf("fingerprint that tor prints: %q", m)
	}
}
