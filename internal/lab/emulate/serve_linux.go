package emulate

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	"golang.zx2c4.com/wireguard/tun"
)

const (
	tableBase    = 0x6c6162 // routing table of the first device; the second follows
	backPriority = 100      // what a device gives back takes the main table
	pairPriority = 1000     // packets of a shaped pair go to a device
)

// Emulator is the whole of it in one namespace: two devices, so that the two
// directions of a pair use two cores, and the rules that lead into them.
type Emulator struct {
	seed   uint64
	pumps  [2]*Pump
	inside func(func() error) error // runs rule changes in the router's namespace
}

// NewEmulator makes the devices in the calling process's namespace, which must
// be the router's.
func NewEmulator(seed uint64) (*Emulator, error) {
	e := &Emulator{seed: seed, inside: func(f func() error) error { return f() }}
	for i := range e.pumps {
		p, err := newDevice(i)
		if err != nil {
			return nil, errors.Join(err, e.Close())
		}
		e.pumps[i] = p
	}
	return e, nil
}

// newDevice makes the i-th device, its table and its rule for the way back.
func newDevice(i int) (*Pump, error) {
	name := fmt.Sprintf("emu%d", i)
	dev, err := tun.CreateTUN(name, mtu)
	if err != nil {
		return nil, fmt.Errorf("make %s: %w", name, err)
	}
	p, err := NewPump(dev)
	if err != nil {
		return nil, errors.Join(err, dev.Close())
	}
	link, err := netlink.LinkByName(name)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("find %s: %w", name, err), dev.Close())
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return nil, errors.Join(fmt.Errorf("set %s up: %w", name, err), dev.Close())
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		all := &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
		if family == netlink.FAMILY_V6 {
			all = &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
		}
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: all, Table: tableBase + i}
		if err := netlink.RouteReplace(route); err != nil {
			return nil, errors.Join(fmt.Errorf("route to %s: %w", name, err), dev.Close())
		}
		back := netlink.NewRule()
		back.Family, back.Priority, back.IifName, back.Table = family, backPriority, name, 254
		if err := addRule(back); err != nil {
			return nil, errors.Join(err, dev.Close())
		}
	}
	return p, nil
}

// Run moves packets and answers the socket until ctx ends.
func (e *Emulator) Run(ctx context.Context, ln net.Listener) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, p := range e.pumps {
		g.Go(p.Run) // ends when Close closes its device
	}
	g.Go(func() error { // ends when ln is closed
		for {
			c, err := ln.Accept()
			if err != nil {
				return nil //nolint:nilerr // closed by us, with ctx
			}
			e.serve(ctx, c)
		}
	})
	g.Go(func() error { // ends with ctx
		<-ctx.Done()
		return errors.Join(ln.Close(), e.Close())
	})
	return g.Wait()
}

// serve talks to one caller at a time; the rules have no other editor.
func (e *Emulator) serve(ctx context.Context, c net.Conn) {
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	defer func() { _ = c.Close() }()
	talk(c, func(r Request) error { return e.inside(func() error { return e.apply(r) }) })
}

// Close removes the devices; the rules go with the namespace.
func (e *Emulator) Close() error {
	var errs []error
	for _, p := range e.pumps {
		if p != nil {
			errs = append(errs, p.Close())
		}
	}
	return errors.Join(errs...)
}

// apply shapes a pair and sets or removes its rules.
func (e *Emulator) apply(r Request) error {
	if err := r.Shape.Check(); err != nil {
		return err
	}
	if len(r.A) > 8 || len(r.B) > 8 {
		return errors.New("too many addresses")
	}
	for _, a := range r.A {
		for _, b := range r.B {
			if !a.IsValid() || !b.IsValid() || a.Is4() != b.Is4() {
				continue
			}
			if err := e.direct(0, Direction{a, b}, r.Shape); err != nil {
				return err
			}
			if err := e.direct(1, Direction{b, a}, r.Shape); err != nil {
				return err
			}
		}
	}
	return nil
}

// direct leads one direction through the i-th device, or past it.
func (e *Emulator) direct(i int, d Direction, shape Shape) error {
	rule := netlink.NewRule()
	rule.Priority, rule.Table = pairPriority, tableBase+i
	rule.Src, rule.Dst = host(d.From), host(d.To)
	rule.Family = netlink.FAMILY_V4
	if d.From.Is6() {
		rule.Family = netlink.FAMILY_V6
	}
	e.pumps[i].Set(d, shape, e.seed^fold(d.From)^fold(d.To)<<1)
	if !shape.IsZero() {
		return addRule(rule)
	}
	err := netlink.RuleDel(rule)
	if err != nil && !errors.Is(err, syscall.ENOENT) && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("remove rule: %w", err)
	}
	return nil
}

func addRule(r *netlink.Rule) error {
	if err := netlink.RuleAdd(r); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("add rule: %w", err)
	}
	return nil
}

func host(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}

// fold makes a number of an address, for seeds.
func fold(a netip.Addr) uint64 {
	var h uint64 = 0xcbf29ce484222325 // FNV-1a
	for _, b := range a.AsSlice() {
		h = (h ^ uint64(b)) * 0x100000001b3
	}
	return h
}
