// Package obfs is the seam between a link and the network: a Mask turns a raw
// connection into one whose bytes look like something else, and gives both ends
// a plain stream again.
//
// A mask knows bytes and time. It knows nothing of cells, circuits or money, and
// no security of a link rests on it: whoever breaks a mask learns that a node
// runs here and nothing more. It dials through the Dialer it is given and never
// opens a socket of its own. Errors that leave a mask name no address (Scrub).
//
// internal/node holds the list of masks (there is no registry) and relay/link
// uses the connections; internal/config parses descriptors. Nothing in this
// package locks: its values are plain data.
package obfs

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"

	"cuttle/relay/wire"
)

// Dialer opens raw connections. A *net.Dialer is one; the node supplies one that
// sets the socket mark which keeps its own packets out of the tunnel.
type Dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// Mask is one way of looking like something else.
//
// Connections of both ends have NetConn() net.Conn, which gives the raw
// connection beneath (for socket options only: reading or writing there breaks
// the mask). They may be used as net.Conn promises: Read, Write, Close and
// deadlines from several goroutines.
type Mask interface {
	// Name is the lower-case word of descriptors, records and configuration.
	Name() string

	// Dial connects to a node. It returns when the far end has shown that it
	// speaks this mask (for masks that can show it), and gives up when ctx ends.
	// The connection does not depend on ctx afterwards.
	Dial(ctx context.Context, d Dialer, to Endpoint) (net.Conn, error)

	// Listen takes over ln and gives the connections of those who speak this
	// mask; what strangers get is the mask's affair. Closing the listener closes
	// ln and sends strangers away; connections already accepted live on.
	Listen(ln net.Listener, o Options) (net.Listener, error)
}

// Endpoint is where and how to reach one node.
type Endpoint struct {
	Node    wire.NodeID       // the node's address: masks may key themselves from it
	Address string            // host:port, IPv6 in brackets
	Params  map[string]string // the descriptor's parameters except mask
}

// Options is what a mask needs to listen.
type Options struct {
	Node   wire.NodeID       // our own address
	State  string            // folder (mode 0700) for what the mask makes itself; "" if it may keep nothing
	Values map[string]string // the operator's options, by the names each mask documents
}

// Only refuses parameters or options that are not among known, naming the first
// in alphabetical order.
func Only(values map[string]string, known ...string) error {
	var odd []string
	for name := range values {
		if !slices.Contains(known, name) {
			odd = append(odd, name)
		}
	}
	if len(odd) == 0 {
		return nil
	}
	slices.Sort(odd)
	if len(known) == 0 {
		return fmt.Errorf("unknown option %q: this mask takes none", odd[0])
	}
	return fmt.Errorf("unknown option %q: this mask takes %s", odd[0], strings.Join(known, ", "))
}

// Find gives the mask of that name from a list.
func Find(masks []Mask, name string) (Mask, error) {
	names := make([]string, 0, len(masks))
	for _, m := range masks {
		if m.Name() == name {
			return m, nil
		}
		names = append(names, m.Name())
	}
	return nil, fmt.Errorf("unknown mask %q: have %s", name, strings.Join(names, ", "))
}

// Underlying follows NetConn down to the raw connection beneath c, for socket
// options. It returns c itself when there is nothing beneath.
func Underlying(c net.Conn) net.Conn {
	for {
		w, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			return c
		}
		c = w.NetConn()
	}
}
