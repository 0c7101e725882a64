package node

import "testing"

// What is configured counts, otherwise a part of the machine's memory within bounds; one
// session of an exit gets half of it at most.
func TestMemoryShare(t *testing.T) {
	for _, tc := range []struct {
		configured int
		machine    uint64
		want       int64
		session    int
	}{
		{16, 1 << 40, 16 << 20, 8 << 20},
		{0, 0, memoryLeast, memoryLeast / 2},
		{0, 512 << 20, 64 << 20, 32 << 20},
		{0, 1 << 40, memoryMost, sessionMost},
	} {
		got := memoryShare(tc.configured, tc.machine)
		if got != tc.want {
			t.Errorf("memoryShare(%d, %d) = %d, want %d", tc.configured, tc.machine, got, tc.want)
		}
		if one := sessionShare(got); one != tc.session {
			t.Errorf("a session gets %d bytes of %d, want %d", one, got, tc.session)
		}
	}
	if machineMemory() == 0 {
		t.Error("this machine's memory is not known")
	}
}
