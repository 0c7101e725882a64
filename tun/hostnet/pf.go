package hostnet

import (
	"fmt"
	"net/netip"
	"strings"
)

// Rules of pf(4) in the syntax of pf.conf(5). Every rule is quick and keeps no state:
// the first that fits decides about each packet, whatever was let through before. That
// of the system's states which other rules have made is flushed after ours are loaded.

// pfHook evaluates, in the order of the alphabet, all anchors below com.apple. The
// main ruleset that macOS comes with has this line, and programs that load that
// ruleset again keep it. pfAnchor is the first of them: Apple's begin with 200.
const (
	pfHook   = `anchor "com.apple/*" all`
	pfAnchor = "com.apple/000.cuttle"
)

// pfRules are the rules of our anchor.
func (f Filter) pfRules() string {
	var b strings.Builder
	say := func(format string, a ...any) { fmt.Fprintf(&b, format+"\n", a...) }
	say("pass quick on lo0 all no state")
	for _, a := range f.Own { // CVE-2019-14899
		say("block drop in quick on ! %s %s from any to %s", f.Device, pfFamily(a), a)
	}
	say("pass quick on %s all no state", f.Device)
	for _, p := range f.Peers {
		say("pass out quick %s proto tcp from any to %s port %d user %s no state", pfFamily(p.Addr()), p.Addr(), p.Port(), f.User)
		say("pass in quick %s proto tcp from %s port %d to any no state", pfFamily(p.Addr()), p.Addr(), p.Port())
	}
	for _, port := range f.Listen {
		say("pass in quick proto tcp from any to any port %d no state", port)
		say("pass out quick proto tcp from any port %d to any user %s no state", port, f.User)
	}
	// Names are asked for nowhere but in the tunnel, whatever is allowed below.
	for _, proto := range []string{"tcp", "udp"} {
		for _, port := range []int{dnsPort, dnsTLSPort} {
			say("block return out quick proto %s from any to any port %d", proto, port)
		}
	}
	for _, a := range f.LAN {
		say("pass out quick on %s %s from any to %s no state", a.Device, pfFamily(a.Network.Addr()), a.Network)
		say("pass in quick on %s %s from %s to any no state", a.Device, pfFamily(a.Network.Addr()), a.Network)
	}
	pfLocal(say)
	say("block return out quick all")
	say("block drop in quick all")
	return b.String()
}

// pfLocal lets through what the local link needs, as ask and input do on Linux. ARP
// does not pass pf, and pf does not look at hop limits: the kernel drops neighbor
// discovery from farther away by itself (RFC 4861 section 6.1).
func pfLocal(say func(format string, a ...any)) {
	for _, p := range dhcpServers {
		say("pass out quick inet proto udp from any port %d to %s port %d no state", dhcpClient, p, dhcpServer)
	}
	say("pass in quick inet proto udp from any port %d to any port %d no state", dhcpServer, dhcpClient)
	for _, p := range []netip.Prefix{dhcpAgents, linkLocal6} {
		say("pass out quick inet6 proto udp from any port %d to %s port %d no state", dhcp6Client, p, dhcp6Server)
	}
	say("pass in quick inet6 proto udp from %s port %d to any port %d no state", linkLocal6, dhcp6Server, dhcp6Client)
	for _, kind := range []int{133, 135, 136} { // solicit routers; solicit and advertise neighbors
		say("pass out quick inet6 proto icmp6 all icmp6-type %d no state", kind)
	}
	say("pass in quick inet6 proto icmp6 from %s to any icmp6-type 134 no state", linkLocal6)
	for _, kind := range []int{135, 136} {
		say("pass in quick inet6 proto icmp6 all icmp6-type %d no state", kind)
	}
	// Errors of the path, for links; the kernel compares them with its sockets.
	say("pass in quick inet proto icmp all icmp-type 3 no state")
	for _, kind := range []int{1, 2} {
		say("pass in quick inet6 proto icmp6 all icmp6-type %d no state", kind)
	}
}

func pfFamily(a netip.Addr) string {
	if a.Is4() {
		return "inet"
	}
	return "inet6"
}

// pfHooked tells whether a main ruleset, as `pfctl -s rules` lists it, evaluates
// our anchor before everything else that decides about packets.
func pfHooked(rules string) bool {
	for line := range strings.Lines(rules) {
		line = strings.TrimSpace(line)
		if line == "" || pfNormalizes(line) {
			continue
		}
		return line == pfHook
	}
	return false
}

// pfHookInto gives the main ruleset with the hook in front of everything that decides,
// and once. Rules that normalize come before in every ruleset.
func pfHookInto(rules string) string {
	var first, rest strings.Builder
	for line := range strings.Lines(rules) {
		line = strings.TrimSpace(line)
		switch {
		case line == "" || line == pfHook:
		case pfNormalizes(line):
			first.WriteString(line + "\n")
		default:
			rest.WriteString(line + "\n")
		}
	}
	return first.String() + pfHook + "\n" + rest.String()
}

func pfNormalizes(line string) bool {
	return strings.HasPrefix(line, "scrub") || strings.HasPrefix(line, "no scrub")
}

// pfOn reads `pfctl -s info`.
func pfOn(info string) bool {
	for line := range strings.Lines(info) {
		if status, ok := strings.CutPrefix(strings.TrimSpace(line), "Status:"); ok {
			return strings.HasPrefix(strings.TrimSpace(status), "Enabled")
		}
	}
	return false
}

// pfToken reads the token out of what `pfctl -E` says, a number of 64 bits by which
// this use of pf is ended. "" when there is none.
func pfToken(said string) string {
	for line := range strings.Lines(said) {
		if token, ok := strings.CutPrefix(strings.TrimSpace(line), "Token :"); ok && isNumber(strings.TrimSpace(token)) {
			return strings.TrimSpace(token)
		}
	}
	return ""
}

func isNumber(s string) bool {
	return s != "" && len(s) <= 20 && strings.Trim(s, "0123456789") == ""
}

// pfRefers tells whether `pfctl -s References` lists a token: whether pf stays on for it.
func pfRefers(references, token string) bool {
	for line := range strings.Lines(references) {
		for _, f := range strings.Fields(line) {
			if f == token {
				return true
			}
		}
	}
	return false
}

// pfSkipped lists the interfaces other than loopback that pf does not look at, by
// `pfctl -v -s Interfaces`.
func pfSkipped(interfaces string) []string {
	var out []string
	for line := range strings.Lines(interfaces) {
		if f := strings.Fields(line); len(f) == 2 && f[1] == "(skip)" && f[0] != "lo" && f[0] != "lo0" {
			out = append(out, f[0])
		}
	}
	return out
}
