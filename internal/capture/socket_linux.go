package capture

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	frameSize  = 256 << 10 // longest frame taken whole, bytes; segmentation offload makes frames of 64 KiB
	kernelSize = 256 << 20 // frames that may wait in the kernel, bytes
)

// Capture feeds a Scanner with everything that passes one interface, both ways.
type Capture struct {
	file    *os.File
	scanner *Scanner
	ended   chan error
}

// Start begins at once: frames that pass after its return are seen. The interface
// is one of the network namespace of the thread that calls.
func Start(iface string, scanner *Scanner) (*Capture, error) {
	fd, err := openSocket(iface)
	if err != nil {
		return nil, fmt.Errorf("capture on %s: %w", iface, err)
	}
	c := &Capture{file: os.NewFile(uintptr(fd), "capture"), scanner: scanner, ended: make(chan error, 1)}
	go func() { c.ended <- c.run() }() // ends when Stop sets the deadline
	return c, nil
}

func openSocket(iface string) (fd int, err error) {
	link, err := net.InterfaceByName(iface)
	if err != nil {
		return -1, err
	}
	// Protocol 0: nothing arrives until the socket is bound to the interface.
	fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("packet socket: %w", err)
	}
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, kernelSize)
	if err == nil {
		all := uint16(unix.ETH_P_ALL)
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all>>8 | all<<8, Ifindex: link.Index})
	}
	if err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

func (c *Capture) run() error {
	raw, err := c.file.SyscallConn()
	if err != nil {
		return err
	}
	buf := make([]byte, frameSize)
	for {
		var n int
		var from unix.Sockaddr
		var got error
		err := raw.Read(func(fd uintptr) bool {
			n, from, got = unix.Recvfrom(int(fd), buf, unix.MSG_TRUNC)
			return !errors.Is(got, unix.EAGAIN)
		})
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil
		case err != nil:
			return err
		case errors.Is(got, unix.EINTR), errors.Is(got, unix.ENETDOWN):
			continue
		case got != nil:
			return fmt.Errorf("receive frame: %w", got)
		}
		if ll, ok := from.(*unix.SockaddrLinklayer); c.scanner.rules.Out && ok && ll.Pkttype != unix.PACKET_OUTGOING {
			continue
		}
		if n > len(buf) {
			c.scanner.report.Cut++
			n = len(buf)
		}
		c.scanner.Frame(buf[:n])
	}
}

// Stop ends the capture after the frames that wait already, and reports.
func (c *Capture) Stop() (Report, error) {
	drain := time.Now().Add(time.Second)
	err := c.drain(drain)
	err = errors.Join(err, c.file.SetReadDeadline(time.Now()), <-c.ended)
	report := c.scanner.Report()
	dropped, statErr := c.dropped()
	report.Dropped = dropped
	return report, errors.Join(err, statErr, c.file.Close())
}

// drain waits until the socket is empty, at most until the deadline.
func (c *Capture) drain(deadline time.Time) error {
	raw, err := c.file.SyscallConn()
	if err != nil {
		return err
	}
	t := time.NewTicker(time.Millisecond)
	defer t.Stop()
	for empty := false; !empty && time.Now().Before(deadline); {
		var peek error
		err := raw.Control(func(fd uintptr) {
			_, _, peek = unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
		})
		if err != nil {
			return err
		}
		if empty = errors.Is(peek, unix.EAGAIN); !empty {
			<-t.C
		}
	}
	return nil
}

// dropped asks the kernel for the frames that found the socket full.
func (c *Capture) dropped() (uint64, error) {
	raw, err := c.file.SyscallConn()
	if err != nil {
		return 0, err
	}
	var stats *unix.TpacketStats
	var got error
	err = raw.Control(func(fd uintptr) {
		stats, got = unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS)
	})
	if err = errors.Join(err, got); err != nil {
		return 0, fmt.Errorf("read capture statistics: %w", err)
	}
	return uint64(stats.Drops), nil
}
