package config

import "testing"

func TestDeviceOn(t *testing.T) {
	for _, test := range []struct {
		system, name, want string
		fails              bool
	}{
		{"linux", "cuttle0", "cuttle0", false},
		{"linux", "utunx", "utunx", false},
		{"darwin", "cuttle0", "utun637", false},
		{"darwin", "utun9", "utun9", false},
		{"darwin", "utun", "", true},
		{"darwin", "utun9x", "", true},
		{"darwin", "utun12345", "", true},
		{"darwin", "tun0", "", true},
	} {
		if got, err := deviceOn(test.system, test.name); got != test.want || (err != nil) != test.fails {
			t.Errorf("on %s %q is %q (%v), want %q, an error: %t", test.system, test.name, got, err, test.want, test.fails)
		}
	}
}
