package hostnet

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// Names on the system bus: org.freedesktop.resolve1(5), and NetworkManager's
// D-Bus reference.
const (
	resolvedName    = "org.freedesktop.resolve1"
	resolvedPath    = "/org/freedesktop/resolve1"
	resolvedManager = resolvedName + ".Manager"
	resolvedLink    = resolvedName + ".Link"
	managerName     = "org.freedesktop.NetworkManager"
	managerPath     = "/org/freedesktop/NetworkManager"
	managerDNS      = managerName + ".GlobalDnsConfiguration"
)

// busTimeout bounds one exchange with another daemon.
const busTimeout = 5 * time.Second

// onBus calls f with a connection to the system bus.
func onBus(f func(ctx context.Context, c *dbus.Conn) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), busTimeout)
	defer cancel()
	c, err := dbus.ConnectSystemBus(dbus.WithContext(ctx))
	if err != nil {
		return fmt.Errorf("connect to the system bus: %w", err)
	}
	return errors.Join(f(ctx, c), c.Close())
}

// owns tells whether somebody answers to a name on the system bus.
func owns(name string) bool {
	owned := false
	err := onBus(func(ctx context.Context, c *dbus.Conn) error {
		return c.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.NameHasOwner", 0, name).Store(&owned)
	})
	return err == nil && owned
}

// resolverOwner finds who owns the resolver file: who claims it, and is there.
func resolverOwner(path string) Owner {
	o := claim(path)
	switch o {
	case OwnerResolved:
		if !owns(resolvedName) {
			return OwnerFile
		}
	case OwnerManager:
		if !owns(managerName) {
			return OwnerFile
		}
	case OwnerResolvconf:
		if _, err := exec.LookPath("resolvconf"); err != nil {
			return OwnerFile
		}
	case OwnerFile:
	}
	return o
}

// linkAddress is an address as SetLinkDNS takes it.
type linkAddress struct {
	Family int32
	Bytes  []byte
}

// linkDomain is a domain as SetLinkDomains takes it; Route: for finding the
// link, not for completing names.
type linkDomain struct {
	Domain string
	Route  bool
}

func addressesOf(value string) ([]linkAddress, error) {
	servers, err := splitServers(value)
	out := make([]linkAddress, 0, len(servers))
	for _, a := range servers {
		f := int32(unix.AF_INET)
		if a.Is6() {
			f = unix.AF_INET6
		}
		out = append(out, linkAddress{f, a.AsSlice()})
	}
	return out, err
}

// tellResolved gives the TUN its name servers, for all names, and turns off what
// would ask beside them.
func tellResolved(s Step) error {
	link, err := net.InterfaceByName(s.Device)
	if err != nil {
		return err
	}
	servers, err := addressesOf(s.Value)
	if err != nil {
		return err
	}
	index := int32(link.Index)
	err = onBus(func(ctx context.Context, c *dbus.Conn) error {
		o := c.Object(resolvedName, resolvedPath)
		for _, call := range []struct {
			method string
			args   []any
			newer  bool // older ones do not know it
		}{
			{"SetLinkDNS", []any{index, servers}, false},
			{"SetLinkDomains", []any{index, []linkDomain{{".", true}}}, false},
			{"SetLinkDefaultRoute", []any{index, true}, true},
			{"SetLinkLLMNR", []any{index, "no"}, false},
			{"SetLinkMulticastDNS", []any{index, "no"}, false},
			{"SetLinkDNSSEC", []any{index, "no"}, false},
			{"SetLinkDNSOverTLS", []any{index, "no"}, true},
			{"FlushCaches", nil, true},
		} {
			err := o.CallWithContext(ctx, resolvedManager+"."+call.method, 0, call.args...).Err
			if err != nil && !(call.newer && unknownMethod(err)) {
				return fmt.Errorf("%s: %w", call.method, err)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("tell systemd-resolved of the name servers (does the polkit rule for cuttled fit?): %w", err)
	}
	return nil
}

func unknownMethod(err error) bool {
	var e dbus.Error
	return errors.As(err, &e) && e.Name == "org.freedesktop.DBus.Error.UnknownMethod"
}

// resolvedHolds reads what resolved has for the TUN.
func resolvedHolds(s Step) (bool, error) {
	link, err := net.InterfaceByName(s.Device)
	if err != nil {
		return false, err
	}
	want, err := addressesOf(s.Value)
	if err != nil {
		return false, err
	}
	var got []linkAddress
	err = onBus(func(ctx context.Context, c *dbus.Conn) error {
		var path dbus.ObjectPath
		if err := c.Object(resolvedName, resolvedPath).CallWithContext(ctx, resolvedManager+".GetLink", 0, int32(link.Index)).Store(&path); err != nil {
			return err
		}
		v, err := c.Object(resolvedName, path).GetProperty(resolvedLink + ".DNS")
		if err != nil {
			return err
		}
		return v.Store(&got)
	})
	return slices.EqualFunc(got, want, func(a, b linkAddress) bool { return a.Family == b.Family && bytes.Equal(a.Bytes, b.Bytes) }), err
}

// revertResolved takes the TUN's name servers away, if it is still there.
func revertResolved(s Step) error {
	link, err := net.InterfaceByName(s.Device)
	if err != nil || !owns(resolvedName) {
		return nil //nolint:nilerr // they went with the interface, or with the daemon
	}
	return onBus(func(ctx context.Context, c *dbus.Conn) error {
		o := c.Object(resolvedName, resolvedPath)
		err := o.CallWithContext(ctx, resolvedManager+".RevertLink", 0, int32(link.Index)).Err
		return errors.Join(err, o.CallWithContext(ctx, resolvedManager+".FlushCaches", 0).Err)
	})
}

// readManager reads NetworkManager's global configuration.
func readManager() (g globalDNS, err error) {
	err = onBus(func(_ context.Context, c *dbus.Conn) error {
		v, err := c.Object(managerName, managerPath).GetProperty(managerDNS)
		if err != nil {
			return err
		}
		g, err = fromVariants(v)
		return err
	})
	if err != nil {
		err = fmt.Errorf("ask NetworkManager for its name servers: %w", err)
	}
	return g, err
}

func fromVariants(v dbus.Variant) (g globalDNS, err error) {
	var all map[string]dbus.Variant
	if err := v.Store(&all); err != nil {
		return g, err
	}
	read := func(from map[string]dbus.Variant, key string, to any) {
		if v, ok := from[key]; ok && err == nil {
			err = v.Store(to)
		}
	}
	read(all, "searches", &g.Searches)
	read(all, "options", &g.Options)
	var domains map[string]dbus.Variant
	read(all, "domains", &domains)
	for name, v := range domains {
		var one map[string]dbus.Variant
		if err == nil {
			err = v.Store(&one)
		}
		var d domainDNS
		read(one, "servers", &d.Servers)
		read(one, "options", &d.Options)
		if g.Domains == nil {
			g.Domains = make(map[string]domainDNS)
		}
		g.Domains[name] = d
	}
	return g, err
}

func (g globalDNS) variants() map[string]dbus.Variant {
	out := make(map[string]dbus.Variant)
	put := func(to map[string]dbus.Variant, key string, list []string) {
		if len(list) > 0 {
			to[key] = dbus.MakeVariant(list)
		}
	}
	put(out, "searches", g.Searches)
	put(out, "options", g.Options)
	if len(g.Domains) > 0 {
		domains := make(map[string]dbus.Variant)
		for name, d := range g.Domains {
			one := make(map[string]dbus.Variant)
			put(one, "servers", d.Servers)
			put(one, "options", d.Options)
			domains[name] = dbus.MakeVariant(one)
		}
		out["domains"] = dbus.MakeVariant(domains)
	}
	return out
}

func writeManager(g globalDNS) error {
	err := onBus(func(_ context.Context, c *dbus.Conn) error {
		return c.Object(managerName, managerPath).SetProperty(managerDNS, dbus.MakeVariant(g.variants()))
	})
	if err != nil {
		return fmt.Errorf("tell NetworkManager of the name servers: %w", err)
	}
	return nil
}

// restoreManager brings back what was there, if ours still is.
func restoreManager(s Step, b Before) error {
	if !owns(managerName) {
		return nil // it keeps the setting on disk; the next start of ours tries again
	}
	now, err := readManager()
	if err != nil || now.text() != ours(s.Value).text() {
		return err
	}
	var g globalDNS
	if b.Value != "" {
		if err := json.Unmarshal([]byte(b.Value), &g); err != nil {
			return fmt.Errorf("what NetworkManager had: %w", err)
		}
	}
	return writeManager(g)
}

// resolvconf calls resolvconf(8), which has no other interface. Names of sources
// are "interface.program".
func resolvconf(input string, args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), busTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "resolvconf", args...)
	cmd.Stdin = strings.NewReader(input)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("resolvconf %s: %w: %s", args[0], err, bytes.TrimSpace(out))
	}
	return nil
}

func sourceName(s Step) string { return s.Device + ".cuttle" }

// resolverEvents tells changed when systemd-resolved or NetworkManager comes
// back: what it was told is forgotten then. nil: there is no bus.
func resolverEvents(changed chan<- struct{}) (stop func() error) {
	// The connection lives as long as its context.
	ctx, cancel := context.WithCancel(context.Background())
	hangs := time.AfterFunc(busTimeout, cancel)
	defer hangs.Stop()
	c, err := dbus.ConnectSystemBus(dbus.WithContext(ctx))
	if err != nil {
		cancel()
		return nil
	}
	for _, name := range []string{resolvedName, managerName} {
		err = errors.Join(err, c.AddMatchSignalContext(ctx, dbus.WithMatchInterface("org.freedesktop.DBus"), dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, name)))
	}
	if err != nil {
		_ = c.Close()
		cancel()
		return nil
	}
	signals := make(chan *dbus.Signal, 8)
	c.Signal(signals)
	ended := make(chan struct{})
	go func() { // ends when c is closed, which closes signals
		defer close(ended)
		for range signals {
			select {
			case changed <- struct{}{}:
			default: // one is waiting already
			}
		}
	}()
	return func() error {
		err := c.Close()
		cancel()
		<-ended
		return err
	}
}
