package hostnet

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
)

// Owner is who owns the host's resolver configuration.
type Owner string

// The owners. Whoever it is: the packet filter sends every question into the
// TUN or nowhere, so this decides only whether names are found, not what leaks.
const (
	OwnerFile       Owner = ""               // nobody: the resolver file is written
	OwnerResolved   Owner = "resolved"       // systemd-resolved: the TUN gets name servers there
	OwnerManager    Owner = "networkmanager" // NetworkManager: its global configuration
	OwnerResolvconf Owner = "resolvconf"     // resolvconf(8) or openresolv: one more source
)

// Where systemd-resolved keeps the files that a resolver file may be a link to,
// and where its stub listens (resolved's documentation, section /etc/resolv.conf).
const (
	resolvedFolder = "/run/systemd/resolve/"
	resolvedStub   = "127.0.0.53"
)

// claimed tells who says, by the resolver file, that it is its. target is what
// the file links to, absolute; "" when it is no link.
func claimed(target string, content []byte) Owner {
	servers := nameServersOf(content)
	switch {
	case strings.HasPrefix(target, resolvedFolder), strings.HasPrefix(target, "/usr/lib/systemd/"),
		slices.Contains(servers, netip.MustParseAddr(resolvedStub)):
		return OwnerResolved
	case strings.HasPrefix(target, "/run/NetworkManager/"):
		return OwnerManager
	case strings.HasPrefix(target, "/run/resolvconf/"), strings.HasPrefix(target, "/etc/resolvconf/"):
		return OwnerResolvconf
	}
	for line := range strings.Lines(string(content)) {
		if !strings.HasPrefix(line, "#") {
			continue
		}
		switch {
		case strings.Contains(line, "systemd-resolved"):
			return OwnerResolved
		case strings.Contains(line, "NetworkManager"):
			return OwnerManager
		case strings.Contains(line, "resolvconf"):
			return OwnerResolvconf
		}
	}
	return OwnerFile
}

// claim reads a resolver file and tells who claims it.
func claim(path string) Owner {
	f, gone, err := readFile(path)
	if err != nil || gone {
		return OwnerFile
	}
	if f.Target == "" {
		return claimed("", f.Content)
	}
	target := f.Target
	if !filepath.IsAbs(target) {
		target = filepath.Join(filepath.Dir(path), target)
	}
	return claimed(target, readSome(target))
}

// nameServersOf is nameServers with loopback ones.
func nameServersOf(content []byte) []netip.Addr {
	var out []netip.Addr
	for line := range strings.Lines(string(content)) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == "nameserver" {
			if a, err := netip.ParseAddr(f[1]); err == nil {
				out = append(out, a)
			}
		}
	}
	return out
}

// resolverStep is how names get into the TUN.
func (c *Config) resolverStep(host Host, ipv6 bool) Step {
	servers := slices.DeleteFunc(slices.Clone(c.DNS), func(a netip.Addr) bool { return a.Is6() && !ipv6 })
	if c.ResolvConf == systemResolver {
		switch host.Resolver {
		case OwnerResolved:
			return Step{Kind: ResolvedLink, Device: c.Device, Value: join(servers)}
		case OwnerManager:
			return Step{Kind: ManagerDNS, Value: join(servers)}
		case OwnerResolvconf:
			return Step{Kind: ResolvconfSource, Device: c.Device, Value: resolverFile(servers, true)}
		case OwnerFile:
		}
	}
	return Step{Kind: Resolver, Key: c.ResolvConf, Value: resolverFile(c.DNS, ipv6)}
}

// systemResolver is the file that the owners may own.
const systemResolver = "/etc/resolv.conf"

func join(servers []netip.Addr) string {
	var out []string
	for _, a := range servers {
		out = append(out, a.String())
	}
	return strings.Join(out, " ")
}

// split is the reverse of join.
func splitServers(text string) ([]netip.Addr, error) {
	var out []netip.Addr
	for _, f := range strings.Fields(text) {
		a, err := netip.ParseAddr(f)
		if err != nil {
			return nil, fmt.Errorf("name server %q: %w", f, err)
		}
		out = append(out, a)
	}
	return out, nil
}

// globalDNS is NetworkManager's property GlobalDnsConfiguration as the journal
// keeps it.
type globalDNS struct {
	Searches []string             `json:"searches,omitempty"`
	Options  []string             `json:"options,omitempty"`
	Domains  map[string]domainDNS `json:"domains,omitempty"`
}

type domainDNS struct {
	Servers []string `json:"servers,omitempty"`
	Options []string `json:"options,omitempty"`
}

// ours is the configuration that sends every name to servers.
func ours(servers string) globalDNS {
	return globalDNS{Domains: map[string]domainDNS{"*": {Servers: strings.Fields(servers)}}}
}

func (g globalDNS) text() string {
	b, err := json.Marshal(g)
	if err != nil {
		panic("strings that do not marshal: " + err.Error())
	}
	return string(b)
}
