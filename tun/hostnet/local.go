package hostnet

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// maxResolvers bounds how many name servers of the local network are used.
const maxResolvers = 3

// leaseFolders is where network managers keep the name servers of a lease:
// systemd-networkd's files have a line DNS=, the resolver files of others a
// line nameserver.
var leaseFolders = []string{"/run/systemd/netif/leases", "/run/systemd/resolve/resolv.conf", "/run/NetworkManager/resolv.conf", "/run/NetworkManager/no-stub-resolv.conf"}

// LocalResolvers finds the name servers that the local network has given this
// machine: those that were in the resolver file before a plan by the journal in
// stateDir changed it, and those of leases. Ours and loopback ones are left out.
func LocalResolvers(stateDir, resolvConf string) ([]netip.Addr, error) {
	var texts [][]byte
	for _, r := range salvage(stateDir) {
		if f := r.Before.File; r.Step.Kind == Resolver && f != nil {
			if f.Target == "" {
				texts = append(texts, f.Content)
				continue
			}
			if !filepath.IsAbs(f.Target) {
				f.Target = filepath.Join(filepath.Dir(r.Step.Key), f.Target)
			}
			texts = append(texts, readSome(f.Target))
		}
	}
	if resolvConf != "" {
		texts = append(texts, readSome(resolvConf))
	}
	for _, path := range leaseFolders {
		entries, err := os.ReadDir(path)
		if err != nil {
			texts = append(texts, readSome(path))
			continue
		}
		for _, e := range entries {
			texts = append(texts, readSome(filepath.Join(path, e.Name())))
		}
	}
	var out []netip.Addr
	for _, t := range texts {
		for _, a := range nameServers(t) {
			if len(out) < maxResolvers && !slices.Contains(out, a) && !slices.Contains(defaultDNS, a) {
				out = append(out, a)
			}
		}
	}
	return out, nil
}

// readSome reads a file, or nothing.
func readSome(path string) []byte {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() || info.Size() > maxFile {
		return nil
	}
	b, _ := os.ReadFile(path)
	return b
}

// nameServers reads the addresses of lines "nameserver A" and "DNS=A B".
func nameServers(text []byte) []netip.Addr {
	var out []netip.Addr
	for line := range bytes.Lines(text) {
		fields := strings.Fields(string(line))
		if len(fields) == 0 {
			continue
		}
		if list, ok := strings.CutPrefix(fields[0], "DNS="); ok {
			fields[0] = list
		} else if fields[0] != "nameserver" || len(fields) != 2 {
			continue
		} else {
			fields = fields[1:]
		}
		for _, f := range fields {
			if a, err := netip.ParseAddr(f); err == nil && !a.IsLoopback() && !a.IsUnspecified() && a.Zone() == "" {
				out = append(out, a.Unmap())
			}
		}
	}
	return out
}
