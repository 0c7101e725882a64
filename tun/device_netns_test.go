//go:build linux && netns

package tun

import (
	"errors"
	"net"
	"os"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// up opens a TUN with an address, so that the kernel sends packets into it.
func up(tb testing.TB, mtu int) Device {
	tb.Helper()
	d, err := Open("cuttle0", mtu)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := d.Close(); err != nil {
			tb.Error(err)
		}
	})
	link, err := netlink.LinkByName(d.Name())
	if err != nil {
		tb.Fatal(err)
	}
	addr, err := netlink.ParseAddr("10.1.1.1/24")
	if err != nil {
		tb.Fatal(err)
	}
	if err := errors.Join(netlink.AddrAdd(link, addr), netlink.LinkSetUp(link)); err != nil {
		tb.Fatal(err)
	}
	if link.Attrs().MTU != mtu {
		tb.Fatalf("mtu is %d, want %d", link.Attrs().MTU, mtu)
	}
	return d
}

// TestDevice sends a datagram through the kernel in both directions.
func TestDevice(t *testing.T) {
	d := up(t, 1500)
	c, err := net.Dial("udp", "10.1.1.2:7")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	in := buffers(8)
	for {
		n, err := d.Read(in)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range in[:n] {
			if p.Data[0] != 0x45 || p.Data[9] != 17 {
				continue // IPv6 noise of an interface that comes up
			}
			if !p.NeedsChecksum || string(p.Data[28:]) != "hello" {
				t.Fatalf("kernel sent %x, %+v", p.Data, p.Offload)
			}
			answer := []byte{0x45, 0, 0, 30, 0, 0, 0, 0, 64, 17, 0, 0, 10, 1, 1, 2, 10, 1, 1, 1,
				p.Data[22], p.Data[23], p.Data[20], p.Data[21], 0, 10, 0, 0, 'o', 'k'}
			sum := 0
			for i := 0; i < 20; i += 2 {
				sum += int(answer[i])<<8 | int(answer[i+1])
			}
			sum = ^(sum&0xffff + sum>>16)
			answer[10], answer[11] = byte(sum>>8), byte(sum)
			if n, err := d.Write([]Vector{{Pieces: [][]byte{answer[:20], answer[20:]}}}); n != 1 || err != nil {
				t.Fatalf("write: %d, %v", n, err)
			}
			b := make([]byte, 10)
			if n, err := c.Read(b); err != nil || string(b[:n]) != "ok" {
				t.Fatalf("program got %q, %v", b[:n], err)
			}
			return
		}
	}
}

func TestDeviceClose(t *testing.T) {
	d := up(t, 1500)
	var wg sync.WaitGroup
	wg.Go(func() {
		for in := buffers(4); ; {
			if _, err := d.Read(in); err != nil {
				if !errors.Is(err, ErrClosed) {
					t.Errorf("read at close: %v, want %v", err, ErrClosed)
				}
				return
			}
		}
	})
	wg.Go(func() {
		for {
			if _, err := d.Write([]Vector{{Pieces: [][]byte{make([]byte, 20)}}}); errors.Is(err, ErrClosed) {
				return
			}
		}
	})
	if err := errors.Join(d.Close(), d.Close()); err != nil {
		t.Error(err)
	}
	wg.Wait()
	if _, err := netlink.LinkByName("cuttle0"); err == nil {
		t.Error("the interface outlived its device")
	}
}

func TestOpenRefuses(t *testing.T) {
	up(t, 1500)
	if d, err := Open("cuttle0", 1500); err == nil {
		_ = d.Close()
		t.Error("opened a device that is in use")
	}
	if d, err := Open("cuttle1", 500); err == nil {
		_ = d.Close()
		t.Error("opened a device with an MTU below IPv6's")
	}
}

func BenchmarkDeviceWrite(b *testing.B) {
	d := up(b, 1500)
	packet := make([]byte, 1500) // no IP version: the kernel drops it
	vs := []Vector{{Pieces: [][]byte{packet[:40], packet[40:]}}}
	b.ReportAllocs()
	for b.Loop() {
		_, _ = d.Write(vs)
	}
}

// An interface whose file somebody keeps outlives its device, and the next
// process goes on with it; one that is not kept is free at once.
func TestAdopt(t *testing.T) {
	d, err := Open("cuttle0", 1500)
	if err != nil {
		t.Fatal(err)
	}
	before, err := netlink.LinkByName("cuttle0")
	if err != nil {
		t.Fatal(err)
	}
	kept := duplicate(t, d.(*native).file)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Adopt(duplicate(t, kept), "other0", 1500); !errors.Is(err, ErrForeign) {
		t.Errorf("adopting under another name: %v, want ErrForeign", err)
	}
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Adopt(null, "cuttle0", 1500); !errors.Is(err, ErrForeign) {
		t.Errorf("adopting another file: %v, want ErrForeign", err)
	}
	again, err := Adopt(kept, "cuttle0", 1400)
	if err != nil {
		t.Fatal(err)
	}
	after, err := netlink.LinkByName("cuttle0")
	if err != nil {
		t.Fatal(err)
	}
	if after.Attrs().Index != before.Attrs().Index || after.Attrs().MTU != 1400 {
		t.Errorf("interface %d with MTU %d, want %d with 1400", after.Attrs().Index, after.Attrs().MTU, before.Attrs().Index)
	}
	done := make(chan error, 1)
	go func() { // ends with Close
		for {
			if _, err := again.Read(buffers(1)); err != nil {
				done <- err
				return
			}
		}
	}()
	if err := again.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; !errors.Is(err, ErrClosed) {
		t.Errorf("reading while it is closed: %v, want ErrClosed", err)
	}
	if _, err := netlink.LinkByName("cuttle0"); err == nil {
		t.Error("the interface is still there")
	}
}

// duplicate is what a service manager does with a file it is given to keep.
func duplicate(t *testing.T, f *os.File) *os.File {
	t.Helper()
	raw, err := f.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var fd int
	var failed error
	if err := raw.Control(func(from uintptr) { fd, failed = unix.FcntlInt(from, unix.F_DUPFD_CLOEXEC, 0) }); err != nil || failed != nil {
		t.Fatal(err, failed)
	}
	return os.NewFile(uintptr(fd), "kept")
}
