package node

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"net/netip"
	"os/user"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"time"

	"cuttle/internal/config"
	"cuttle/internal/control"
	"cuttle/tun/hostnet"
	"cuttle/tun/lan"
)

// The cgroups of programs that go past the tunnel, or may see a login page.
const (
	excludeGroup = "cuttle/exclude"
	portalGroup  = "cuttle/portal"
)

func (h *hold) poke() {
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// revise puts another plan in force when somebody has asked for one, or the
// networks that this machine is in have changed. It is for the goroutine that
// watches.
func (h *hold) revise(change func(hostnet.Plan) error) error {
	moved, err := h.moved()
	if err != nil {
		return err
	}
	waiting := h.takeWaiting() // from here on they are answered
	if len(waiting) == 0 && !moved {
		return nil
	}
	err = h.replan(change)
	if err != nil && len(waiting) > 0 {
		h.mu.Lock()
		for _, r := range slices.Backward(waiting) {
			r.back()
		}
		h.mu.Unlock()
		answerAll(waiting, err)
		return h.replan(change)
	}
	answerAll(waiting, err)
	return err
}

func (h *hold) replan(change func(hostnet.Plan) error) error {
	p, err := h.plan()
	if err != nil {
		return err
	}
	if !h.captured {
		p = p.Block()
	}
	h.tellPlan(p.String())
	return change(p)
}

// moved tells whether what the plan depends on has changed by itself: networks,
// the end of a portal, the last excluded program's.
func (h *hold) moved() (bool, error) {
	h.mu.Lock()
	portal, over := h.portal, h.portalOver()
	follows := h.lanOn() || h.let.Router != nil && len(h.let.Router.Direct) > 0
	split, _ := h.findSplit()
	router, noLAN := h.routerOf(), h.noLAN
	h.mu.Unlock()
	if router != "" {
		if out, err := leadsOut(router); err == nil && out != noLAN {
			return true, nil
		}
	}
	if !reflect.DeepEqual(split, h.split) {
		return true, nil // a cgroup or user has come or gone
	}
	if portal != nil && over {
		h.mu.Lock()
		h.portal = nil
		h.mu.Unlock()
		return true, nil
	}
	if !follows {
		return false, nil
	}
	now, err := hostnet.Networks()
	return err == nil && !slices.Equal(now, h.networks), err
}

// lanOn and routerOf want the mutex.
func (h *hold) lanOn() bool {
	if h.choices.LAN != nil {
		return *h.choices.LAN
	}
	return h.cfg.LAN.Allow
}

func (h *hold) routerOf() string {
	if h.choices.Router != nil {
		return *h.choices.Router
	}
	return h.cfg.Router.LAN
}

// devices are the policies by MAC address; it wants the mutex.
func (h *hold) devices() map[string]config.Device {
	out := make(map[string]config.Device)
	for _, d := range h.cfg.Router.Device {
		out[d.MAC] = d
	}
	for mac, d := range h.choices.Devices {
		out[mac] = d
	}
	return out
}

// fillHost adds what operators want to be let through to the configuration of a
// plan.
func (h *hold) fillHost(hc *hostnet.Config) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	hc.LAN, hc.Portal = h.lanOn(), h.portal
	split, unknown := h.findSplit()
	if unknown != h.unknown && unknown > 0 && h.log != nil {
		h.log.Warn("the split names users or cgroups that this machine does not have", "count", unknown, "everything goes into the tunnel", h.cfg.Split.Mode == modeOnly)
	}
	h.split, h.unknown = split, unknown
	hc.Split = split
	hc.Split.Cgroups = slices.Clone(split.Cgroups)
	// Without somebody in the group its rules would cost everybody.
	if g, err := hostnet.FindCgroup(excludeGroup); err == nil && (h.excluding || g.InUse()) && !hc.Split.Only {
		hc.Split.Cgroups = append(hc.Split.Cgroups, g)
	}
	return h.fillRouter(hc)
}

// modeOnly is the split the other way round.
const modeOnly = "only"

// findSplit looks up what the configuration lets past the tunnel, and counts the
// users and cgroups that this machine does not have. They are left out: nobody can
// be in them. In the mode only that would let them out, so nothing is let past the
// tunnel then. It wants the mutex.
func (h *hold) findSplit() (s hostnet.Split, unknown int) {
	s.Only = h.cfg.Split.Mode == modeOnly
	s.Networks = h.cfg.Split.Networks
	for _, name := range h.cfg.Split.Users {
		if uid, err := userNumber(name); err == nil {
			s.Users = append(s.Users, uid)
		} else {
			unknown++
		}
	}
	for _, path := range h.cfg.Split.Cgroups {
		g, err := hostnet.FindCgroup(path)
		if err != nil && !h.dry {
			g, err = hostnet.MakeCgroup(path) // who may, makes it
		}
		if err == nil {
			s.Cgroups = append(s.Cgroups, g)
		} else {
			unknown++
		}
	}
	if s.Only && unknown > 0 {
		return hostnet.Split{}, unknown
	}
	return s, unknown
}

func (h *hold) fillRouter(hc *hostnet.Config) error {
	device := h.routerOf()
	if device == "" {
		return nil
	}
	if !h.dry {
		out, err := leadsOut(device)
		if err != nil {
			return err
		}
		if out != h.noLAN {
			h.noLAN = out
			h.reroute()
		}
		if out {
			h.log.Warn("the interface of the LAN leads out of this machine, so its network is not served")
			return nil
		}
	}
	if !h.choices.Network6.IsValid() {
		h.choices.Network6 = newNetwork6()
		if h.dry {
			h.choices.Network6 = netip.MustParsePrefix("fd00::/64") // stands for the one to be chosen
		} else if err := h.choices.write(h.cfg.Node.State); err != nil {
			return err
		}
	}
	r := &hostnet.Router{Device: device, Addresses: []netip.Prefix{
		h.cfg.Router.Address, netip.PrefixFrom(h.choices.Network6.Addr().Next(), 64),
	}}
	for mac, d := range h.devices() {
		switch control.Policy(d.Policy) {
		case control.PolicyBlocked:
			r.Blocked = append(r.Blocked, mac)
		case control.PolicyDirect:
			r.Direct = append(r.Direct, mac)
		case control.PolicyTunnel:
		}
	}
	slices.Sort(r.Blocked)
	slices.Sort(r.Direct)
	hc.Router = r
	return nil
}

// reroute tells who serves the LAN that the router has changed; it wants the mutex.
func (h *hold) reroute() {
	close(h.rerouted)
	h.rerouted = make(chan struct{})
}

// newNetwork6 makes a unique local network as RFC 4193 section 3.2 wants it.
func newNetwork6() netip.Prefix {
	a := [16]byte{0: 0xfd}
	_, _ = rand.Read(a[1:8]) // never fails
	return netip.PrefixFrom(netip.AddrFrom16(a), 64)
}

func userNumber(name string) (uint32, error) {
	if u, err := user.Lookup(name); err == nil {
		name = u.Uid
	}
	n, err := strconv.ParseUint(name, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("split.users: there is no user %q", name)
	}
	return uint32(n), nil
}

// serveLAN serves the network behind this machine while it is the router of one,
// until ctx ends. That it cannot be served ends nothing else.
func (h *hold) serveLAN(ctx context.Context) error {
	for ctx.Err() == nil {
		h.mu.Lock()
		device, network6, changed := h.routerOf(), h.choices.Network6, h.rerouted
		if h.noLAN {
			device = ""
		}
		h.mu.Unlock()
		if device == "" {
			select {
			case <-ctx.Done():
			case <-changed:
			}
			continue
		}
		err := h.serveOnce(ctx, changed, lan.Config{
			Device: device, Address: h.cfg.Router.Address, Network6: network6, DNS: hostnet.NameServers(),
			Lease: time.Duration(h.cfg.Router.Lease), File: filepath.Join(h.cfg.Node.State, "leases.json"), Refused: h.refused, Log: h.log,
		})
		if err != nil && ctx.Err() == nil {
			h.log.Error("the LAN is not served", "err", err)
			select {
			case <-time.After(lanPause):
			case <-changed:
			case <-ctx.Done():
			}
		}
	}
	return nil
}

// serveOnce serves until ctx ends, the router changes, or something fails.
func (h *hold) serveOnce(ctx context.Context, changed <-chan struct{}, cfg lan.Config) error {
	s, err := lan.New(cfg)
	if err != nil {
		return err
	}
	serving, stop := context.WithCancel(ctx)
	defer stop()
	h.lanServer.Store(s)
	defer h.lanServer.Store(nil)
	ended := make(chan error, 1)
	go func() { ended <- s.Run(serving) }() // ends with serving, or by itself
	select {
	case <-changed:
		stop()
		return <-ended
	case err := <-ended:
		return err
	}
}

// lanPause is between attempts to serve a LAN.
const lanPause = 2 * time.Second

func (h *hold) refused(mac string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return control.Policy(h.devices()[mac].Policy) == control.PolicyBlocked
}

var _ control.Host = (*Node)(nil)

// Host tells what goes past the tunnel, and about the LAN.
func (n *Node) Host() control.HostStatus {
	s := n.client.hold.status()
	for i, d := range s.Router.Devices {
		if d.Policy != control.PolicyBlocked {
			s.Router.Devices[i].Problem = n.client.wishProblem(d.Exit)
		}
	}
	return s
}

func (h *hold) status() control.HostStatus {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := control.HostStatus{LAN: h.lanOn(), Split: control.SplitStatus{Mode: h.cfg.Split.Mode, Users: h.cfg.Split.Users, Cgroups: slices.Clone(h.cfg.Split.Cgroups)}}
	if s.LAN {
		for _, a := range h.let.LAN {
			s.Networks = append(s.Networks, a.Network.String()+" on "+a.Device)
		}
	}
	for _, p := range h.cfg.Split.Networks {
		s.Split.Networks = append(s.Split.Networks, p.String())
	}
	if h.excluding {
		s.Split.Cgroups = append(s.Split.Cgroups, excludeGroup)
	}
	s.Portal = h.portalStatus()
	if s.Router.LAN = h.routerOf(); s.Router.LAN != "" {
		s.Router.Addresses = []string{h.cfg.Router.Address.String(), netip.PrefixFrom(h.choices.Network6.Addr().Next(), 64).String()}
		s.Router.Devices = h.listDevices()
	}
	return s
}

// listDevices wants the mutex.
func (h *hold) listDevices() []control.Device {
	known := make(map[string]control.Device)
	for mac, d := range h.devices() {
		known[mac] = control.Device{MAC: mac, Name: d.Name, Policy: control.Policy(d.Policy), Exit: d.Exit}
	}
	if s := h.lanServer.Load(); s != nil {
		for _, l := range s.Leases() {
			d, ok := known[l.MAC]
			if !ok {
				d = control.Device{MAC: l.MAC, Policy: control.PolicyTunnel}
			}
			if d.Address = l.Address.String(); d.Name == "" {
				d.Name = l.Name
			}
			known[l.MAC] = d
		}
	}
	out := make([]control.Device, 0, len(known))
	for _, d := range known {
		out = append(out, d)
	}
	slices.SortFunc(out, func(a, b control.Device) int {
		if a.MAC < b.MAC {
			return -1
		}
		return 1
	})
	return out
}

// portalOver tells whether the portal's time is over, by the clock on the wall, as
// in the kernel's rules, or by one that nobody can set back. It wants the mutex.
func (h *hold) portalOver() bool {
	now := time.Now()
	return h.portal != nil && (now.UnixNano() >= h.portal.Until || !now.Before(h.portalEnd))
}

// portalStatus wants the mutex.
func (h *hold) portalStatus() control.PortalStatus {
	p := h.portal
	if p == nil || h.portalOver() {
		return control.PortalStatus{}
	}
	s := control.PortalStatus{Until: time.Unix(0, p.Until).Unix()}
	for _, a := range p.Resolvers {
		s.Resolvers = append(s.Resolvers, a.String())
	}
	return s
}

// Plan is what is in force on this machine while it is captured, in words.
func (n *Node) Plan() (string, error) {
	if !n.cfg.Client.Enabled {
		return "", errNoClient()
	}
	h := n.client.hold
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.words == "" {
		return "", &control.Error{Text: "nothing is in force", Hint: "`cuttled plan` shows what would be"}
	}
	return h.words, nil
}

// PlanFor is what capturing would put in force on this machine, in words. It
// changes nothing.
func PlanFor(cfg *config.Config) (string, error) {
	known, err := descriptors(cfg)
	if err != nil {
		return "", err
	}
	h := newHold(cfg, known, nil)
	h.dry = true
	p, err := h.plan()
	return p.String(), err
}

// SetLAN allows or forbids the LAN.
func (n *Node) SetLAN(ctx context.Context, on bool) error {
	if !n.cfg.Client.Enabled {
		return errNoClient()
	}
	h := n.client.hold
	return h.adopt(ctx, !on, func() func() {
		old := h.choices.LAN
		h.choices.LAN = &on
		return func() { h.choices.LAN = old }
	})
}

// Exclude lets a process go past the tunnel.
func (n *Node) Exclude(ctx context.Context, p control.Process, portal bool) (control.Joined, error) {
	if !n.cfg.Client.Enabled {
		return control.Joined{}, errNoClient()
	}
	path := excludeGroup
	if portal {
		path = portalGroup
	}
	if !portal && n.cfg.Split.Mode == modeOnly {
		return control.Joined{}, &control.Error{Text: "everything that is not listed goes past the tunnel already (split.mode is only)"}
	}
	g, err := hostnet.MakeCgroup(path)
	if err != nil {
		return control.Joined{}, &control.Error{Text: err.Error(), Hint: "run cuttled as root once, or make the folder " + path + " in /sys/fs/cgroup for it"}
	}
	h := n.client.hold
	if !portal {
		err = h.adopt(ctx, false, func() func() {
			old := h.excluding
			h.excluding = true
			return func() { h.excluding = old }
		})
		if err != nil {
			return control.Joined{}, err
		}
	}
	file, err := g.ProcsFile()
	if err != nil {
		return control.Joined{}, err
	}
	ended := &control.Error{Text: "the process that asked has ended"}
	if p.Ended() {
		return control.Joined{}, ended
	}
	joined := g.Join(p.PID) == nil
	if p.Ended() {
		// Its number may be another's by now, who goes back to where nothing is let past.
		if above, err := hostnet.FindCgroup(filepath.Dir(path)); err == nil && joined {
			_ = above.Join(p.PID) // fails if nobody has it
		}
		return control.Joined{}, ended
	}
	return control.Joined{Joined: joined, File: file}, nil
}

// OpenPortal opens the way to the local network's login page for a time.
func (n *Node) OpenPortal(ctx context.Context, d time.Duration) (control.PortalStatus, error) {
	if !n.cfg.Client.Enabled {
		return control.PortalStatus{}, errNoClient()
	}
	h := n.client.hold
	var p *hostnet.Portal
	now := time.Now()
	if d > 0 {
		g, err := hostnet.MakeCgroup(portalGroup)
		if err != nil {
			return control.PortalStatus{}, err
		}
		servers, err := hostnet.LocalResolvers(h.cfg.Node.State, h.cfg.Tun.ResolvConf)
		if err != nil {
			return control.PortalStatus{}, err
		}
		p = &hostnet.Portal{Cgroup: g, Resolvers: servers, Until: now.Add(d).UnixNano()}
	}
	err := h.adopt(ctx, d <= 0, func() func() {
		old, end := h.portal, h.portalEnd
		h.portal, h.portalEnd = p, now.Add(d)
		return func() { h.portal, h.portalEnd = old, end }
	})
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.portalStatus(), err
}

// SetRouter makes this machine the router of the network behind an interface.
func (n *Node) SetRouter(ctx context.Context, device string) error {
	if !n.cfg.Client.Enabled {
		return errNoClient()
	}
	if device != "" {
		if !hostnet.CanRoute {
			return &control.Error{Text: "this system cannot be a router yet: Linux can"}
		}
		if err := n.mayServe(device); err != nil {
			return err
		}
		if err := lan.Permitted(); err != nil {
			return &control.Error{Text: "this daemon " + err.Error(),
				Hint: "give it CAP_NET_BIND_SERVICE and CAP_NET_RAW; as a service: put /usr/share/cuttle/router.conf into /etc/systemd/system/cuttled.service.d, systemctl daemon-reload, systemctl restart cuttled"}
		}
	}
	h := n.client.hold
	err := h.adopt(ctx, device == "", func() func() {
		old := h.choices.Router
		h.choices.Router = &device
		return func() { h.choices.Router = old }
	})
	h.mu.Lock()
	defer h.mu.Unlock()
	h.reroute()
	return err
}

// SetDevice says what is done with a device of the LAN.
func (n *Node) SetDevice(ctx context.Context, d control.Device) error {
	if !n.cfg.Client.Enabled {
		return errNoClient()
	}
	m, err := net.ParseMAC(d.MAC)
	if err != nil || len(m) != 6 || len(d.Name) > 63 {
		return &control.Error{Text: "want a MAC address of six bytes, and a short name", Hint: "`cuttle router` lists the devices"}
	}
	switch d.Policy {
	case control.PolicyTunnel, control.PolicyDirect, control.PolicyBlocked:
	default:
		return &control.Error{Text: fmt.Sprintf("policy %q: want tunnel, direct or blocked", d.Policy)}
	}
	if _, err := exitWishes(d.Exit); err != nil {
		return err
	}
	h, mac := n.client.hold, m.String()
	full := false
	h.mu.Lock()
	narrows := openness(d.Policy) <= openness(control.Policy(h.devices()[mac].Policy))
	h.mu.Unlock()
	err = h.adopt(ctx, narrows, func() func() {
		old, was := h.choices.Devices[mac]
		if full = !was && len(h.choices.Devices) >= maxDevices; full {
			return func() {}
		}
		if h.choices.Devices == nil {
			h.choices.Devices = make(map[string]config.Device)
		}
		h.choices.Devices[mac] = config.Device{MAC: mac, Name: d.Name, Policy: string(d.Policy), Exit: d.Exit}
		return func() {
			if was {
				h.choices.Devices[mac] = old
			} else {
				delete(h.choices.Devices, mac)
			}
		}
	})
	if full {
		return &control.Error{Text: "there are too many devices with a policy"}
	}
	return err
}

// openness orders policies by how much they let out.
func openness(p control.Policy) int {
	switch p {
	case control.PolicyBlocked:
		return 0
	case control.PolicyTunnel:
	case control.PolicyDirect:
		return 2
	}
	return 1
}
