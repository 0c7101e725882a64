package link

import (
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestBBR: a link's connection is under BBR where the kernel has it, may keep as much
// as a far link needs where the kernel lets us, and stays under BBR when that measures anew.
func TestBBR(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	tuneSocket(c)
	raw := socketOf(c)
	widenSending(raw)
	var room int
	if err := raw.Control(func(fd uintptr) {
		room, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF)
	}); err != nil {
		t.Fatal(err)
	}
	if may := capable(t); err != nil || may && room != 2*sendBuffer {
		t.Errorf("the kernel keeps %d bytes (%v), want %d", room, err, 2*sendBuffer)
	}
	known, err := os.ReadFile("/proc/sys/net/ipv4/tcp_allowed_congestion_control")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(strings.Fields(string(known)), bbr) {
		t.Skip("this kernel has no BBR for us")
	}
	if _, ok := readSending(raw); !ok {
		t.Error("the connection is not under BBR")
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
