package wire

import (
	"bytes"
	"testing"
)

func TestEchoBytes(t *testing.T) {
	tests := []struct {
		name string
		b    []byte
		ok   bool
	}{
		{"empty data", []byte{0, 0, 1}, true},
		{"data", []byte{0, 1, 2, 3, 4}, true},
		{"most data", append([]byte{0, 0, 1}, make([]byte, MaxEcho)...), true},
		{"host unreachable", []byte{2, 0, 1}, true},
		{"network unreachable", []byte{3, 0, 1}, true},
		{"forbidden", []byte{5, 0, 1}, true},
		{"time exceeded", []byte{9, 255, 255}, true},
		{"nothing", nil, false},
		{"short", []byte{0, 1}, false},
		{"too much data", append([]byte{0, 0, 1}, make([]byte, MaxEcho+1)...), false},
		{"error with data", []byte{2, 0, 1, 0}, false},
		{"unknown status", []byte{1, 0, 1}, false},
	}
	for _, tt := range tests {
		s, n, data, err := ParseEcho(tt.b)
		if (err == nil) != tt.ok {
			t.Errorf("%s: ParseEcho: got error %v, want ok %v", tt.name, err, tt.ok)
		}
		if err == nil && !bytes.Equal(AppendEcho(nil, s, n, data), tt.b) {
			t.Errorf("%s: AppendEcho does not give the bytes back", tt.name)
		}
	}
}

func TestOpenEcho(t *testing.T) {
	open := []byte{1, 0, 0, 0, 1, 4, 4, 192, 0, 2, 1, 0, 0}
	f, rest, err := NextSessionFrame(open)
	if err != nil || len(rest) != 0 || f.Kind != KindEcho {
		t.Fatalf("open of an echo flow: got %v, %d bytes left, %v", f.Kind, len(rest), err)
	}
	if got := AppendOpen(nil, 1, KindEcho, f.Destination); !bytes.Equal(got, open) {
		t.Errorf("AppendOpen: got %x, want %x", got, open)
	}
	open[len(open)-1] = 7
	if _, _, err := NextSessionFrame(open); err == nil {
		t.Error("open of an echo flow with a port is accepted")
	}
}

func FuzzEcho(f *testing.F) {
	f.Add([]byte{0, 0, 1, 2})
	f.Add([]byte{9, 0, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, n, data, err := ParseEcho(b); err == nil && !bytes.Equal(AppendEcho(nil, s, n, data), b) {
			t.Errorf("%x does not come back", b)
		}
	})
}
