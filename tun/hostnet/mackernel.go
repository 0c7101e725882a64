package hostnet

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// macHost is what a plan for macOS asks of the system. The system's is in
// mac_darwin.go; tests have one in memory.
type macHost interface {
	// run runs a program of the system with a text as its standard input, and returns
	// what it says on standard output, and on that and standard error together.
	run(stdin, program string, args ...string) (out, all string, err error)
	// ways lists the routes of both families.
	ways() ([]way, error)
	// addWay adds a route; gateway is the loopback address for one that refuses.
	addWay(w way, gateway netip.Addr) error
	// removeWay removes a route. One that is not there is no error.
	removeWay(w way, gateway netip.Addr) error
	// device reads an interface; one that is not there is fs.ErrNotExist.
	device(name string) (macDevice, error)
	// setDevice brings an interface up, with an MTU if that is not 0.
	setDevice(name string, mtu int) error
	// addAddress gives an interface an address with its full length.
	addAddress(name string, a netip.Addr) error
	// token reads, and keepToken keeps until the machine goes off, what ends our use
	// of pf. "" is none.
	token() (string, error)
	keepToken(token string) error
	// events and asleep are those of kernel.
	events() (changed <-chan struct{}, stop func() error, err error)
	asleep() time.Duration
}

// way is a route: through a device, or one that refuses.
type way struct {
	network netip.Prefix
	device  string // "" for one that refuses
	reject  bool
}

// macDevice is an interface as it is.
type macDevice struct {
	up        bool
	mtu       int
	addresses []netip.Addr
}

// macKernel is kernel for macOS. It remembers how pf lists the rules it has loaded.
type macKernel struct {
	host  macHost
	rules string
}

func (k *macKernel) events() (<-chan struct{}, func() error, error) { return k.host.events() }
func (k *macKernel) asleep() time.Duration                          { return k.host.asleep() }

// foreign removes nothing: the routing table is everybody's, and what a longer
// prefix leads past the TUN does not pass pf.
func (k *macKernel) foreign(Plan) (int, error) { return 0, nil }

func (k *macKernel) before(s Step) (Before, error) {
	if s.Kind != MacHook {
		return Before{}, nil
	}
	rules, err := k.mainRules()
	return Before{Value: rules}, err
}

func (k *macKernel) do(s Step) error {
	switch s.Kind {
	case MacHook:
		return k.hook()
	case MacFilter:
		return k.load(s)
	case MacOn:
		return k.turnOn()
	case MacReject, MacRoute:
		return k.host.addWay(s.way(), s.gateway())
	case MacLink:
		return k.host.setDevice(s.Device, s.MTU)
	case MacAddr:
		return k.host.addAddress(s.Device, s.Address)
	case MacNames:
		return k.say(s.namesScript(), scutil)
	default:
		return errUnknownStep
	}
}

func (k *macKernel) holds(s Step) (bool, error) {
	switch s.Kind {
	case MacHook:
		rules, err := k.mainRules()
		return pfHooked(rules), err
	case MacFilter:
		rules, err := k.ask("", pfctl, "-a", pfAnchor, "-s", "rules")
		return rules != "" && rules == k.rules, err
	case MacOn:
		return k.isOn()
	case MacReject, MacRoute:
		ways, err := k.host.ways()
		return slices.Contains(ways, s.way()), err
	case MacLink:
		d, err := k.host.device(s.Device)
		return d.up && (s.MTU == 0 || d.mtu == s.MTU), err
	case MacAddr:
		d, err := k.host.device(s.Device)
		return slices.Contains(d.addresses, s.Address), err
	case MacNames:
		shown, err := k.ask(askScript(storeNames), scutil)
		return slices.Equal(storedArray(shown, "ServerAddresses"), strings.Fields(s.Value)), err
	default:
		return false, errUnknownStep
	}
}

func (k *macKernel) undo(s Step, b Before) error {
	switch s.Kind {
	case MacHook:
		return k.unhook(b.Value)
	case MacFilter:
		k.rules = ""
		return k.say("", pfctl, "-a", pfAnchor, "-F", "rules")
	case MacOn:
		return k.turnOff()
	case MacReject, MacRoute:
		return k.host.removeWay(s.way(), s.gateway())
	case MacLink, MacAddr:
		return nil // they go with the TUN
	case MacNames:
		return k.say(noNamesScript(), scutil)
	default:
		return errUnknownStep
	}
}

func (s Step) way() way {
	return way{network: s.Network, device: s.Device, reject: s.Kind == MacReject}
}

// gateway is what the route leads to: the TUN is named by its own address.
func (s Step) gateway() netip.Addr {
	if s.Kind == MacReject {
		return loopbackOf(s.Family)
	}
	return s.Address
}

// ask gives what a program says.
func (k *macKernel) ask(stdin, program string, args ...string) (string, error) {
	out, all, err := k.host.run(stdin, program, args...)
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", program, strings.Join(args, " "), err, lastLine(all))
	}
	return out, nil
}

func (k *macKernel) say(stdin, program string, args ...string) error {
	_, err := k.ask(stdin, program, args...)
	return err
}

// lastLine is where a program says what is wrong.
func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}

func (k *macKernel) mainRules() (string, error) { return k.ask("", pfctl, "-s", "rules") }

// hook makes the main ruleset evaluate our anchor first. Mostly it does already.
func (k *macKernel) hook() error {
	rules, err := k.mainRules()
	if err != nil || pfHooked(rules) {
		return err
	}
	if err := k.say(pfHookInto(rules), pfctl, "-R", "-f", "-"); err != nil {
		return err
	}
	if rules, err = k.mainRules(); err == nil && !pfHooked(rules) {
		err = errors.New("the main rules of pf do not evaluate our anchor")
	}
	return err
}

// unhook brings back the main ruleset that was there, if what is there is ours.
func (k *macKernel) unhook(before string) error {
	if pfHooked(before) {
		return nil // nothing was changed
	}
	now, err := k.mainRules()
	if err != nil || strings.TrimSpace(now) != strings.TrimSpace(pfHookInto(before)) {
		return err
	}
	if strings.TrimSpace(before) == "" {
		return k.say("", pfctl, "-F", "rules")
	}
	return k.say(before, pfctl, "-R", "-f", "-")
}

// load puts our rules in force in one transaction, then forgets the connections that
// the rules before have let through.
func (k *macKernel) load(s Step) error {
	if s.Filter == nil {
		return errors.New("filter step without a filter")
	}
	if err := k.say(s.Filter.pfRules(), pfctl, "-a", pfAnchor, "-f", "-"); err != nil {
		return err
	}
	if err := k.say("", pfctl, "-F", "states"); err != nil {
		return err
	}
	rules, err := k.ask("", pfctl, "-a", pfAnchor, "-s", "rules")
	if err == nil && strings.TrimSpace(rules) == "" {
		err = errors.New("the rules of pf have gone again at once")
	}
	if err != nil {
		return err
	}
	k.rules = rules
	interfaces, err := k.ask("", pfctl, "-v", "-s", "Interfaces")
	if skipped := pfSkipped(interfaces); len(skipped) > 0 {
		return fmt.Errorf("pf is told to skip %s: remove `set skip` from /etc/pf.conf and load that again", strings.Join(skipped, ", "))
	}
	return err
}

// isOn tells whether pf is on, and stays so when others who wanted it have ended.
func (k *macKernel) isOn() (bool, error) {
	info, err := k.ask("", pfctl, "-s", "info")
	if err != nil || !pfOn(info) {
		return false, err
	}
	token, err := k.host.token()
	if err != nil || token == "" {
		return false, err
	}
	references, err := k.ask("", pfctl, "-s", "References")
	return pfRefers(references, token), err
}

func (k *macKernel) turnOn() error {
	_, said, err := k.host.run("", pfctl, "-E")
	if err != nil {
		return fmt.Errorf("%s -E: %w: %s", pfctl, err, lastLine(said))
	}
	token := pfToken(said)
	if token == "" {
		return errors.New("pfctl -E gave no token")
	}
	return k.host.keepToken(token)
}

// turnOff ends our use of pf; it stays on if others use it. After a reboot there is
// nothing to end.
func (k *macKernel) turnOff() error {
	token, err := k.host.token()
	if err != nil || token == "" {
		return err
	}
	references, err := k.ask("", pfctl, "-s", "References")
	if err == nil && pfRefers(references, token) {
		err = k.say("", pfctl, "-X", token)
	}
	if err != nil {
		return err
	}
	return k.host.keepToken("")
}
