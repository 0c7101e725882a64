//go:build !linux

package tun

import (
	"errors"
	"fmt"
	"os"
	"sync"

	wgtun "golang.zx2c4.com/wireguard/tun"
)

// front is the room that wireguard's tun package wants before a packet.
const front = 16

// Open creates a TUN interface (on macOS an utun; name is "utun" or "utunN")
// with an MTU in bytes. It needs root. Packets are moved one by one: these
// systems have no offloads on TUN interfaces.
func Open(name string, mtu int) (Device, error) {
	if mtu < 1280 || mtu > MaxPacket {
		return nil, fmt.Errorf("open tun device: mtu %d is not in 1280 to %d", mtu, MaxPacket)
	}
	wg, err := wgtun.CreateTUN(name, mtu)
	if err != nil {
		return nil, fmt.Errorf("create tun interface: %w", err)
	}
	got, err := wg.Name()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("name of tun interface: %w", err), wg.Close())
	}
	d := &native{wg: wg, name: got, mtu: mtu, batch: wg.BatchSize()}
	d.events.Add(1)
	go d.drain() // ends when Close closes the channel of events
	return d, nil
}

// native is a TUN interface opened by wireguard's tun package.
type native struct {
	wg     wgtun.Device
	name   string
	mtu    int
	batch  int
	events sync.WaitGroup

	bufs  [][]byte // of the one reader
	sizes []int

	mu  sync.Mutex // guards out
	out []byte
}

// drain takes events (link up, MTU changed), which nobody here needs, so that
// the package's listener never blocks.
func (d *native) drain() {
	defer d.events.Done()
	for range d.wg.Events() {
	}
}

func (d *native) Name() string   { return d.name }
func (d *native) MTU() int       { return d.mtu }
func (d *native) Offloads() bool { return false }

// Read implements Device.
func (d *native) Read(ps []Packet) (int, error) {
	n := min(d.batch, len(ps))
	for len(d.bufs) < n {
		d.bufs = append(d.bufs, make([]byte, front+MaxPacket))
		d.sizes = append(d.sizes, 0)
	}
	n, err := d.wg.Read(d.bufs[:n], d.sizes[:n], front)
	if errors.Is(err, os.ErrClosed) {
		return 0, ErrClosed
	}
	if err != nil {
		return 0, fmt.Errorf("read tun device: %w", err)
	}
	for i := range n {
		ps[i].Data = ps[i].Data[:copy(ps[i].Data[:cap(ps[i].Data)], d.bufs[i][front:front+d.sizes[i]])]
		ps[i].Offload = Offload{}
	}
	return n, nil
}

// Write implements Device.
func (d *native) Write(vs []Vector) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range vs {
		d.out = append(d.out[:0], make([]byte, front)...)
		for _, piece := range vs[i].Pieces {
			d.out = append(d.out, piece...)
		}
		if _, err := d.wg.Write([][]byte{d.out}, front); err != nil {
			if errors.Is(err, os.ErrClosed) {
				err = ErrClosed
			}
			return i, err
		}
	}
	return len(vs), nil
}

// Close implements Device.
func (d *native) Close() error {
	err := d.wg.Close()
	d.events.Wait()
	return err
}
