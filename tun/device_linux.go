package tun

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
	wgtun "golang.zx2c4.com/wireguard/tun"

	"cuttle/internal/nowait"
)

// Open creates the TUN interface called name with an MTU in bytes, or attaches
// to it if it exists, is persistent and unused. It needs CAP_NET_ADMIN and
// /dev/net/tun.
//
// The device is opened by wireguard's tun package; packets go through its file
// directly, because that package cuts every super-packet into MTU-sized ones
// (and joins them again on the way back), which costs several times more than
// handing them over whole.
func Open(name string, mtu int) (Device, error) {
	if mtu < 1280 || mtu > MaxPacket {
		return nil, fmt.Errorf("open tun device: mtu %d is not in 1280 to %d", mtu, MaxPacket)
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	if err := attachFree(fd, name); err != nil {
		return nil, errors.Join(fmt.Errorf("create tun interface: %w", err), unix.Close(fd))
	}
	return use(fd, mtu)
}

// use makes a device of fd, which belongs to an interface, and owns fd.
func use(fd, mtu int) (Device, error) {
	wg, got, err := wgtun.CreateUnmonitoredTUNFromFD(fd)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open tun device: %w", err), unix.Close(fd))
	}
	d := &native{wg: wg, file: wg.File(), fd: fd, name: got, mtu: mtu}
	if err := d.start(); err != nil {
		return nil, errors.Join(fmt.Errorf("open tun device: %w", err), wg.Close())
	}
	return d, nil
}

// attach makes fd the file of the interface called name.
func attach(fd int, name string) error {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	return unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
}

func setMTU(name string, mtu int) error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	ifr, err := unix.NewIfreq(name)
	if err == nil {
		ifr.SetUint32(uint32(mtu))
		err = unix.IoctlIfreq(s, unix.SIOCSIFMTU, ifr)
	}
	return errors.Join(err, unix.Close(s))
}

// native is a TUN interface of the kernel.
type native struct {
	wg   wgtun.Device
	file *os.File
	fd   int // file's descriptor; use it only while mu is held and closed is false
	name string
	mtu  int

	mu     sync.RWMutex // held for reading while fd is written to
	closed bool

	raw    syscall.RawConn
	in     batch                 // of the one reader
	readFn func(fd uintptr) bool // in.fill, bound once so that Read allocates nothing
	slots  sync.Pool             // *slot, of writers
}

// batch is what a Read is doing.
type batch struct {
	ps  []Packet
	n   int
	hdr [headerSize]byte
	iov [2]unix.Iovec
	err error
}

// slot is what one call of Write needs.
type slot struct {
	hdr [headerSize]byte
	iov []unix.Iovec
}

func (d *native) start() error {
	if err := setMTU(d.name, d.mtu); err != nil {
		return fmt.Errorf("set mtu: %w", err)
	}
	// wireguard's package also asks for UDP super-packets where the kernel has
	// them; the kernel cuts those for us when we do not take them.
	if err := unix.IoctlSetInt(d.fd, unix.TUNSETOFFLOAD, unix.TUN_F_CSUM|unix.TUN_F_TSO4|unix.TUN_F_TSO6); err != nil {
		return fmt.Errorf("set offloads: %w", err)
	}
	raw, err := d.file.SyscallConn()
	if err != nil {
		return err
	}
	d.raw = raw
	d.readFn = func(fd uintptr) bool { return d.in.fill(int(fd)) }
	d.slots.New = func() any { return &slot{iov: make([]unix.Iovec, 0, 16)} }
	return nil
}

func (d *native) Name() string   { return d.name }
func (d *native) MTU() int       { return d.mtu }
func (d *native) Offloads() bool { return true }

// Read implements Device.
func (d *native) Read(ps []Packet) (int, error) {
	d.in.ps, d.in.n, d.in.err = ps, 0, nil
	err := d.raw.Read(d.readFn)
	d.in.ps = nil
	switch {
	case d.in.n > 0:
		return d.in.n, nil
	case errors.Is(d.in.err, unix.EBADFD) || err != nil && d.isClosed():
		return 0, ErrClosed
	case err != nil:
		return 0, fmt.Errorf("read tun device: %w", err)
	case d.in.err != nil:
		return 0, fmt.Errorf("read tun device: %w", d.in.err)
	}
	return 0, nil
}

func (d *native) isClosed() bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.closed
}

// fill reads until the kernel has no more or the batch is full. False means
// that there was nothing and the caller should wait.
func (b *batch) fill(fd int) bool {
	for b.n < len(b.ps) {
		p := &b.ps[b.n]
		p.Data = p.Data[:cap(p.Data)]
		b.iov = [2]unix.Iovec{nowait.Piece(b.hdr[:]), nowait.Piece(p.Data)}
		n, err := nowait.Readv(fd, b.iov[:])
		switch {
		case errors.Is(err, unix.EAGAIN):
			return b.n > 0
		case err != nil:
			b.err = err
			return true
		case n <= headerSize:
			continue
		}
		o, err := parseHeader(&b.hdr)
		if err != nil {
			continue // a kind of super-packet that we did not ask for
		}
		p.Data, p.Offload = p.Data[:n-headerSize], o
		b.n++
	}
	return true
}

// Write implements Device.
func (d *native) Write(vs []Vector) (int, error) {
	s := d.slots.Get().(*slot)
	defer func() {
		clear(s.iov)
		d.slots.Put(s)
	}()
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.closed {
		return 0, ErrClosed
	}
	taken := 0
	var failed error
	for i := range vs {
		putHeader(&s.hdr, vs[i].Offload)
		s.iov = append(s.iov[:0], nowait.Piece(s.hdr[:]))
		for _, p := range vs[i].Pieces {
			s.iov = append(s.iov, nowait.Piece(p))
		}
		switch _, err := nowait.Writev(d.fd, s.iov); {
		case err == nil:
			taken++
		case errors.Is(err, unix.EBADFD):
			return taken, ErrClosed
		default:
			failed = err
		}
	}
	if taken == 0 && failed != nil {
		return 0, fmt.Errorf("write tun device: %w", failed)
	}
	return taken, nil
}

// Close implements Device.
func (d *native) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	return d.wg.Close()
}
