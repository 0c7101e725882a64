package node

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	"cuttle/relay/circuit"
	"cuttle/relay/wire"
)

const (
	refusalTime  = 10 * time.Minute // how long an exit is avoided for a host that it could not reach
	refusalMost  = 1024             // hosts remembered
	refusalExits = 2                // exits remembered per host: it must not choose the one that is left
)

// refusals remember which exits could not reach a host or were refused by it, so
// that the next flow to this host, and no other, takes another exit. They stay in
// memory and are forgotten when the client goes off. Methods may be called by any
// goroutine.
type refusals struct {
	mu    sync.Mutex // guards hosts
	hosts map[visit][]refusal
}

// visit is a host as the flows of one isolation key know it: what one has met must
// not show in the paths of another.
type visit struct {
	key  circuit.Key
	host netip.Addr
}

type refusal struct {
	exit wire.NodeID
	at   time.Time
}

// blames tells whether a code speaks against the exit, or may: a host that is down
// looks the same from everywhere, one that blocks an exit does not.
func blames(c wire.Code) bool {
	switch c {
	case wire.CodeRefused, wire.CodeHostUnreachable, wire.CodeNetworkUnreachable, wire.CodeTimeout, wire.CodeForbidden, wire.CodeResources:
		return true
	case wire.CodeReset, wire.CodeEnded:
	}
	return false
}

// note remembers that exit has failed for the host.
func (r *refusals) note(host visit, exit wire.NodeID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.hosts == nil {
		r.hosts = make(map[visit][]refusal)
	}
	list, known := r.hosts[host]
	if !known && len(r.hosts) >= refusalMost {
		r.dropOldest()
	}
	list = slices.DeleteFunc(list, func(o refusal) bool { return o.exit == exit })
	if len(list) >= refusalExits {
		list = list[1:]
	}
	r.hosts[host] = append(list, refusal{exit, time.Now()})
}

// dropOldest makes room for one host. Called with mu held.
func (r *refusals) dropOldest() {
	var oldest visit
	var at time.Time
	for host, list := range r.hosts {
		if t := list[len(list)-1].at; at.IsZero() || t.Before(at) {
			oldest, at = host, t
		}
	}
	delete(r.hosts, oldest)
}

// avoid lists the exits that have failed for the host lately.
func (r *refusals) avoid(host visit) (out []wire.NodeID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, o := range r.hosts[host] {
		if time.Since(o.at) < refusalTime {
			out = append(out, o.exit)
		}
	}
	if len(out) == 0 {
		delete(r.hosts, host)
	}
	return out
}

// worked forgets what speaks against exit for the host.
func (r *refusals) worked(host visit, exit wire.NodeID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	list, known := r.hosts[host]
	if !known {
		return
	}
	if list = slices.DeleteFunc(list, func(o refusal) bool { return o.exit == exit }); len(list) == 0 {
		delete(r.hosts, host)
		return
	}
	r.hosts[host] = list
}

// forget drops everything.
func (r *refusals) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hosts = nil
}
