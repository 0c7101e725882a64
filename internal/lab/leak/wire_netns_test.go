//go:build linux && netns

package leak

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cuttle/internal/capture"
	"cuttle/tun/hostnet/hostnettest"
)

// wire keeps the beginning of every frame that the machine has put on it.
type wire struct {
	file  *os.File
	ended chan error

	mu     sync.Mutex // guards frames
	frames [][]byte
}

const kept = 400 // bytes of a frame

// watchWire begins at once, at the router's end, until the end of t.
func watchWire(t *testing.T, o hostnettest.Outside) *wire {
	t.Helper()
	var fd int
	o.In(t, func() (err error) {
		link, err := net.InterfaceByName("out0")
		if err != nil {
			return err
		}
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: swap(unix.ETH_P_ALL), Ifindex: link.Index})
	})
	w := &wire{file: os.NewFile(uintptr(fd), "wire"), ended: make(chan error, 1)}
	go func() { w.ended <- w.run() }() // ends when the file is closed
	t.Cleanup(func() {
		_ = w.file.Close()
		<-w.ended // because it is closed
	})
	return w
}

func swap(n uint16) uint16 { return n>>8 | n<<8 }

func (w *wire) run() error {
	raw, err := w.file.SyscallConn()
	if err != nil {
		return err
	}
	buf := make([]byte, 1<<18)
	for {
		if err := raw.Read(func(fd uintptr) bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			n, from, err := unix.Recvfrom(int(fd), buf, 0)
			if err != nil { // there is none yet, it was interrupted, or the interface is down
				return !errors.Is(err, unix.EAGAIN)
			}
			if ll, ok := from.(*unix.SockaddrLinklayer); !ok || ll.Pkttype != unix.PACKET_OUTGOING { // else it is the router's own
				w.frames = append(w.frames, bytes.Clone(buf[:min(n, kept)]))
			}
			return true
		}); err != nil {
			return err
		}
	}
}

// quiet is how long after the last probe a frame may still come.
const quiet = 150 * time.Millisecond

// now is the place of the next frame to be sent: those that have been wait for nobody
// any more.
func (w *wire) now() int {
	for {
		waits, n := w.waiting()
		if !waits {
			return n
		}
		time.Sleep(time.Millisecond)
	}
}

// waiting tells whether a frame waits to be read, and how many have been.
func (w *wire) waiting() (waits bool, n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	raw, err := w.file.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) {
			_, _, err := unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
			waits = err == nil
		})
	}
	return waits && err == nil, len(w.frames)
}

func (w *wire) since(from int) [][]byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.frames[from:len(w.frames):len(w.frames)]
}

// foreign describes the frames that are neither the local link's own nor to a
// peer, and those for which also holds.
func foreign(t *testing.T, frames [][]byte, peers []netip.AddrPort, also func(frame []byte) bool) []string {
	t.Helper()
	var out []string
	for _, f := range frames {
		s, err := capture.NewScanner(capture.Rules{Peers: peers})
		if err != nil {
			t.Fatal(err)
		}
		s.Frame(f)
		r := s.Report()
		if r.Foreign > 0 {
			out = append(out, r.Examples...)
		} else if also != nil && also(f) {
			out = append(out, fmt.Sprintf("% x", f[:min(len(f), 60)]))
		}
	}
	return out
}

// ports reads protocol and ports of an IPv4 or IPv6 frame without extensions.
func ports(f []byte) (protocol byte, src, dst uint16) {
	if len(f) < 14+20 {
		return 0, 0, 0
	}
	var rest []byte
	switch binary.BigEndian.Uint16(f[12:]) {
	case unix.ETH_P_IP:
		protocol, rest = f[23], f[14+int(f[14]&15)*4:]
	case unix.ETH_P_IPV6:
		if len(f) < 14+40 {
			return 0, 0, 0
		}
		protocol, rest = f[20], f[54:]
	}
	if len(rest) < 4 {
		return protocol, 0, 0
	}
	return protocol, binary.BigEndian.Uint16(rest), binary.BigEndian.Uint16(rest[2:])
}
