package link

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestBBR: a link's connection is under BBR where the kernel has it for us, may keep as
// much as a far link needs where the kernel lets us, and stays under BBR when that
// measures anew. Where there is no BBR the connection is as the kernel has it.
func TestBBR(t *testing.T) {
	c := dialed(t)
	tuneSocket(c)
	raw := socketOf(c)
	widenSending(raw)
	var room int
	var err error
	if err := raw.Control(func(fd uintptr) {
		room, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF)
	}); err != nil {
		t.Fatal(err)
	}
	may := capable(t)
	if err != nil || may && room != 2*sendBuffer {
		t.Errorf("the kernel keeps %d bytes (%v), want %d", room, err, 2*sendBuffer)
	}
	list := "allowed"
	if may {
		list = "available"
	}
	known, err := os.ReadFile("/proc/sys/net/ipv4/tcp_" + list + "_congestion_control")
	if err != nil {
		t.Fatal(err)
	}
	has := slices.Contains(strings.Fields(string(known)), bbr)
	if _, ok := readSending(raw); ok != has {
		t.Fatalf("the connection is under BBR: %v; want %v, the kernel has %s", ok, has, known)
	}
	if !has {
		p := pacer{socket: raw}
		if p.look(time.Hour); p.socket != nil {
			t.Error("what is not under BBR is looked at again")
		}
		return
	}
	restartSending(raw)
	deadline := time.Now().Add(time.Minute)
	for { // it is in its startup once something has been acknowledged
		if _, err := c.Write([]byte{1}); err != nil {
			t.Fatal(err)
		}
		s, ok := readSending(raw)
		if !ok {
			t.Fatal("not under BBR any more")
		}
		if s.startup {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("it does not measure anew")
		}
		time.Sleep(time.Millisecond) // polling what the kernel does
	}
}

// capable tells whether this process has CAP_NET_ADMIN.
func capable(t *testing.T) bool {
	t.Helper()
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var d [2]unix.CapUserData
	if err := unix.Capget(&h, &d[0]); err != nil {
		t.Fatal(err)
	}
	return d[0].Effective&(1<<unix.CAP_NET_ADMIN) != 0
}
