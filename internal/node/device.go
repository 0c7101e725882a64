package node

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"sync"
	"time"

	"cuttle/internal/config"
	"cuttle/internal/control"
	"cuttle/relay/circuit"
	"cuttle/relay/netmap"
	"cuttle/stack"
	"cuttle/tun/hostnet"
)

// deviceWish is a device of the LAN that is to leave at exits of its own.
type deviceWish struct {
	mac   string
	wish  string // as it was written
	exits []netmap.ExitWish
}

// aim says whose circuits a flow may take, and to which exits. A device whose exits
// no path leads to is refused: it goes nowhere else instead.
func (o *onward) aim(f stack.Flow, by protocol, names bool) (circuit.Want, error) {
	if o.device == nil || !f.Src().IsValid() {
		return circuit.Want{Key: o.isolation.key(f, by, names)}, nil
	}
	d, err := o.device(f.Src().Addr())
	if err != nil {
		return circuit.Want{}, err
	}
	if d == nil {
		return circuit.Want{Key: o.isolation.key(f, by, names)}, nil
	}
	w := circuit.Want{Key: o.isolation.deviceKey(f, d.mac, d.wish, names), Exits: d.exits}
	if err := o.unmet(w.Exits); err != nil {
		return w, fmt.Errorf("%w: %w", stack.ErrProhibited, err)
	}
	return w, nil
}

// unmet tells why no path leads to exits; nil: one does, or none leads anywhere at
// present, and the flow waits as all do.
func (o *onward) unmet(exits []netmap.ExitWish) error {
	if o.other == nil {
		return nil
	}
	err := o.other(circuit.Want{Exits: exits})
	if errors.Is(err, netmap.ErrNoGuard) {
		return nil
	}
	return err
}

// wishOf tells which exits the device wants that has an address; nil: this machine's,
// or it is none of the LAN's.
func (h *hold) wishOf(a netip.Addr) (*deviceWish, error) {
	h.mu.Lock()
	device, all := h.wishes(a.Unmap())
	h.mu.Unlock()
	if len(all) == 0 {
		return nil, nil //nolint:nilnil // nobody wants anything
	}
	mac, err := h.neighbors.find(device, a.Unmap())
	if err != nil {
		// It cannot be answered either.
		return nil, fmt.Errorf("%w: which device it is cannot be told: %w", stack.ErrHostUnreachable, err)
	}
	d, ok := all[mac]
	if !ok {
		return nil, nil //nolint:nilnil // this one wants nothing
	}
	exits, err := exitWishes(d.Exit)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", stack.ErrProhibited, err)
	}
	return &deviceWish{mac, strings.Join(d.Exit, ","), exits}, nil
}

// wishes are the devices with exits of their own, by MAC address, if a is an address of
// the LAN that device leads to. It wants the mutex.
func (h *hold) wishes(a netip.Addr) (device string, all map[string]config.Device) {
	device = h.routerOf()
	if device == "" || !h.cfg.Router.Address.Masked().Contains(a) && !h.choices.Network6.Contains(a) {
		return "", nil
	}
	for mac, d := range h.devices() {
		if len(d.Exit) > 0 && control.Policy(d.Policy) != control.PolicyBlocked {
			if all == nil {
				all = make(map[string]config.Device)
			}
			all[mac] = d
		}
	}
	return device, all
}

// neighborTime is how long a device is taken to have an address, or nobody to have
// it, and neighborsMost how many addresses are remembered.
const (
	neighborTime  = 5 * time.Second
	neighborsMost = 1024
)

// neighbors remembers for a moment which device has which address, and which nobody
// has, so that neither the kernel nor the network is asked for each flow. Methods may
// be called by any goroutine.
type neighbors struct {
	ask func(device string, a netip.Addr) (mac string, err error)

	mu    sync.Mutex // guards known
	known map[netip.Addr]*neighbor
}

// neighbor is what was found; the other fields are set once told is closed.
type neighbor struct {
	told  chan struct{}
	mac   string
	err   error
	until time.Time
}

// over tells whether it has to be asked again. It does not wait.
func (k *neighbor) over(now time.Time) bool {
	select {
	case <-k.told:
		return !now.Before(k.until)
	default:
		return false
	}
}

// find asks once for all who want to know at the same time.
func (n *neighbors) find(device string, a netip.Addr) (string, error) {
	n.mu.Lock()
	if k := n.known[a]; k != nil && !k.over(time.Now()) {
		n.mu.Unlock()
		<-k.told
		return k.mac, k.err
	}
	k := &neighbor{told: make(chan struct{})}
	n.room()
	n.known[a] = k
	n.mu.Unlock()
	k.mac, k.err = n.ask(device, a)
	if k.err == nil || errors.Is(k.err, hostnet.ErrNoNeighbor) { // anything else is asked again
		k.until = time.Now().Add(neighborTime)
	}
	close(k.told)
	return k.mac, k.err
}

// room makes room for one more. Addresses that nobody has go first: there is no end
// of them. It wants the mutex.
func (n *neighbors) room() {
	if n.known == nil {
		n.known = make(map[netip.Addr]*neighbor)
	}
	if len(n.known) < neighborsMost {
		return
	}
	now := time.Now()
	maps.DeleteFunc(n.known, func(_ netip.Addr, k *neighbor) bool {
		select {
		case <-k.told:
			return k.err != nil || !now.Before(k.until)
		default:
			return false
		}
	})
	for a := range n.known {
		if len(n.known) < neighborsMost {
			return
		}
		delete(n.known, a) // any: who waits for it keeps it
	}
}

// wishProblem tells why a device with these exits is refused at present.
func (c *client) wishProblem(names []string) string {
	if len(names) == 0 {
		return ""
	}
	exits, err := exitWishes(names)
	if err == nil {
		err = c.onward.unmet(exits)
	}
	if err == nil {
		return ""
	}
	return err.Error()
}

// deviceProblems tells that devices of the LAN are refused, and not which.
func (c *client) deviceProblems(state control.State) []control.Problem {
	if state == control.StateOff {
		return nil
	}
	known := make(map[string]bool) // by what is wanted: whether it cannot be had
	refused := 0
	c.hold.mu.Lock()
	_, all := c.hold.wishes(c.cfg.Router.Address.Addr())
	c.hold.mu.Unlock()
	for _, d := range all {
		wish := strings.Join(d.Exit, ",")
		if _, ok := known[wish]; !ok {
			known[wish] = c.wishProblem(d.Exit) != ""
		}
		if known[wish] {
			refused++
		}
	}
	if refused == 0 {
		return nil
	}
	return []control.Problem{{
		Text: fmt.Sprintf("what %d of the LAN's devices send is refused, since no path leads to the exits at which they are to leave", refused),
		Hint: "`cuttle router` names them and the reason",
	}}
}
