package node

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"

	"cuttle/internal/config"
	"cuttle/relay/circuit"
	"cuttle/stack"
	"cuttle/tun/hostnet"
)

// isolation makes keys: flows that differ in what the policy names (client.isolate)
// get different ones and so never share a circuit. Keys are keyed hashes with a
// secret of this process, so that one that is seen tells nothing.
type isolation struct {
	destination, user, device bool
	secret                    [32]byte
}

func newIsolation(cl config.Client) *isolation {
	i := &isolation{
		destination: slices.Contains(cl.Isolate, "destination"),
		user:        slices.Contains(cl.Isolate, "user"),
		device:      slices.Contains(cl.Isolate, "device"),
	}
	_, _ = rand.Read(i.secret[:]) // never fails
	return i
}

// protocol tells how the owner of a flow is found.
type protocol func(local, remote netip.AddrPort) (uid uint32, err error)

// key of a program's flow. by finds its owner; names: the flow is DNS, whose
// destination is the exit's resolver, whatever server was asked. The zero key is
// for what this node itself has to say.
func (i *isolation) key(f stack.Flow, by protocol, names bool) (k circuit.Key) {
	if !f.Src().IsValid() {
		return k
	}
	var b []byte
	if i.device {
		a := f.Src().Addr().As16()
		b = append(append(b, 'd'), a[:]...)
	}
	if i.user {
		uid, err := by(f.Src(), f.Dst())
		if err == nil {
			b = binary.BigEndian.AppendUint32(append(b, 'u'), uid)
		} else {
			b = append(b, '?') // another machine's, or its program has gone: such flows share with each other only
		}
	}
	b = i.toDestination(b, f, names)
	if len(b) == 0 {
		return k
	}
	return i.hash(b)
}

// deviceKey is that of a flow of a device with paths of its own, whatever the policy
// says and whichever of its addresses the flow comes from. wish is what it wants, so
// that another wish takes other circuits.
func (i *isolation) deviceKey(f stack.Flow, device, wish string, names bool) circuit.Key {
	b := append(append([]byte("m"+device), 0), wish...)
	return i.hash(i.toDestination(append(b, 0), f, names))
}

func (i *isolation) toDestination(b []byte, f stack.Flow, names bool) []byte {
	switch {
	case i.destination && names:
		b = append(b, 'n')
	case i.destination:
		a := site(f.Dst().Addr())
		b = append(append(b, 'h'), a[:]...)
	}
	return b
}

func (i *isolation) hash(b []byte) (k circuit.Key) {
	h := hmac.New(sha256.New, i.secret[:])
	h.Write(b)
	copy(k[:], h.Sum(nil))
	return k
}

// site is what counts as one destination: an IPv4 address, or the /64 of an IPv6
// address, of which a host has as many addresses as it likes.
func site(a netip.Addr) [16]byte {
	a = a.Unmap()
	if a.Is6() {
		if p, err := a.Prefix(64); err == nil {
			a = p.Addr()
		}
	}
	return a.As16()
}

// Owners of flows, by protocol.
var (
	ownerTCP protocol = hostnet.OwnerTCP
	ownerUDP protocol = hostnet.OwnerUDP
)

// ownerNone is for flows whose program cannot be found: those of ICMP echo.
func ownerNone(_, _ netip.AddrPort) (uint32, error) { return 0, errors.New("no socket with a port") }

// ownerDNS looks among sockets of UDP first, then of TCP.
func ownerDNS(local, remote netip.AddrPort) (uint32, error) {
	if uid, err := ownerUDP(local, remote); err == nil {
		return uid, nil
	}
	return ownerTCP(local, remote)
}
