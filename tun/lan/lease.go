package lan

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	maxLeases = 4096        // addresses given out at most
	offerTime = time.Minute // an offer is kept for
	maxFile   = 4 << 20     // bytes read back
)

// Lease is one address that a host has.
type Lease struct {
	MAC     string     `json:"mac"`
	Name    string     `json:"name"` // what the host calls itself, printable and short
	Address netip.Addr `json:"address"`
	Until   time.Time  `json:"until"`
}

// table gives addresses to hosts. A host that comes back gets the one it had, if
// nobody else was given it meanwhile, which happens only when there is no other.
type table struct {
	own    netip.Prefix
	length time.Duration
	file   string

	mu     sync.Mutex // guards the fields below
	leases map[string]*Lease
	taken  map[netip.Addr]string // by whom
	dirty  bool
}

// newTable reads the leases of an earlier run. A file that cannot be read is no
// loss: hosts ask for the addresses that they have.
func newTable(own netip.Prefix, length time.Duration, file string) *table {
	t := &table{own: own, length: length, file: file, leases: make(map[string]*Lease), taken: make(map[netip.Addr]string)}
	if file == "" {
		return t
	}
	info, err := os.Stat(file)
	if err != nil || !info.Mode().IsRegular() || info.Size() > maxFile {
		return t
	}
	if b, err := os.ReadFile(file); err == nil {
		t.restore(b)
	}
	return t
}

// restore takes over what still fits; a file that cannot be read is no loss.
func (t *table) restore(b []byte) {
	var list []Lease
	if json.Unmarshal(b, &list) != nil {
		return
	}
	for _, l := range list {
		m, err := net.ParseMAC(l.MAC)
		if err != nil || !t.usable(l.Address) || t.taken[l.Address] != "" || len(t.leases) >= maxLeases {
			continue
		}
		l.MAC, l.Name = m.String(), clean(l.Name)
		if _, twice := t.leases[l.MAC]; twice {
			continue
		}
		t.leases[l.MAC], t.taken[l.Address] = &l, l.MAC
	}
}

// usable tells whether an address is a host's: in the network, and neither ours,
// nor the first or last one.
func (t *table) usable(a netip.Addr) bool {
	n := t.own.Masked()
	if !a.IsValid() || !n.Contains(a) || a == t.own.Addr() || a == n.Addr() {
		return false
	}
	return n.Contains(a.Next())
}

// offer finds an address for a host; wanted may be invalid.
func (t *table) offer(mac string, wanted netip.Addr, now time.Time) (netip.Addr, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if l := t.leases[mac]; l != nil {
		if l.Until.Before(now.Add(offerTime)) {
			l.Until = now.Add(offerTime)
		}
		return l.Address, true
	}
	a, ok := wanted, t.usable(wanted) && t.taken[wanted] == "" && len(t.leases) < maxLeases
	if !ok {
		a, ok = t.free(now)
	}
	if !ok {
		return netip.Addr{}, false
	}
	t.leases[mac], t.taken[a] = &Lease{MAC: mac, Address: a, Until: now.Add(offerTime)}, mac
	return a, true
}

// free finds an address that nobody has, or takes that of the lease that ended
// first.
func (t *table) free(now time.Time) (netip.Addr, bool) {
	if len(t.leases) < maxLeases {
		a := t.own.Masked().Addr()
		for range maxLeases + 2 {
			if a = a.Next(); !t.own.Contains(a) {
				break
			}
			if t.usable(a) && t.taken[a] == "" {
				return a, true
			}
		}
	}
	var oldest *Lease
	for _, l := range t.leases {
		if l.Until.Before(now) && (oldest == nil || l.Until.Before(oldest.Until)) {
			oldest = l
		}
	}
	if oldest == nil {
		return netip.Addr{}, false
	}
	delete(t.leases, oldest.MAC)
	delete(t.taken, oldest.Address)
	return oldest.Address, true
}

// take makes a lease of what was offered, or had; false: the host has to begin
// anew.
func (t *table) take(mac, name string, a netip.Addr, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.leases[mac]
	if l == nil { // of before we forgot, or of another router
		if !t.usable(a) || t.taken[a] != "" || len(t.leases) >= maxLeases {
			return false
		}
		l = &Lease{MAC: mac, Address: a}
		t.leases[mac], t.taken[a] = l, mac
	}
	if l.Address != a {
		return false
	}
	l.Name, l.Until, t.dirty = clean(name), now.Add(t.length), true
	return true
}

// drop ends a lease; a host in the way (declined) keeps the address taken.
func (t *table) drop(mac string, a netip.Addr, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if l := t.leases[mac]; l != nil && l.Address == a {
		l.Until, t.dirty = now, true
	}
}

// decline remembers that somebody else uses the address.
func (t *table) decline(mac string, a netip.Addr, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.leases[mac]
	if l == nil || l.Address != a {
		return
	}
	delete(t.leases, mac)
	key := "declined " + a.String()
	t.leases[key], t.taken[a] = &Lease{MAC: key, Address: a, Until: now.Add(t.length)}, key
}

func (t *table) list(now time.Time) []Lease {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []Lease
	for _, l := range t.leases {
		if l.Until.After(now) && !strings.HasPrefix(l.MAC, "declined ") {
			out = append(out, *l)
		}
	}
	slices.SortFunc(out, func(a, b Lease) int { return a.Address.Compare(b.Address) })
	return out
}

// save writes the leases, if they have changed.
func (t *table) save() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.dirty || t.file == "" {
		return nil
	}
	list := make([]Lease, 0, len(t.leases))
	for _, l := range t.leases {
		if !strings.HasPrefix(l.MAC, "declined ") {
			list = append(list, *l)
		}
	}
	b, err := json.Marshal(list)
	if err == nil {
		err = os.WriteFile(t.file+".new", b, 0o600)
	}
	if err == nil {
		err = os.Rename(t.file+".new", t.file)
	}
	if err != nil {
		return fmt.Errorf("keep leases: %w", err)
	}
	t.dirty = false
	return nil
}

// clean makes a name of a host fit to be shown.
func clean(name string) string {
	var b strings.Builder
	for _, r := range name {
		if b.Len() >= 63 {
			break
		}
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '.' || r == '_' {
			b.WriteRune(r)
		}
	}
	return b.String()
}
