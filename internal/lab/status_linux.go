package lab

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"cuttle/internal/control"
	"cuttle/internal/lab/netns"
)

// Status is what `cuttle-lab status --json` prints. Fields are only added.
type Status struct {
	Nodes    []NodeStatus    `json:"nodes"`
	Circuits []CircuitStatus `json:"circuits"`
	Web      WebStatus       `json:"web"`
	Chain    *ChainInfo      `json:"chain,omitempty"`
	Options  Options         `json:"options"`
}

// NodeStatus is one namespace.
type NodeStatus struct {
	Name       string            `json:"name"`
	Role       Role              `json:"role"`
	NetNS      string            `json:"netns"`
	Key        string            `json:"key,omitempty"`
	PID        int               `json:"pid"` // 0: does not run
	Control    string            `json:"control,omitempty"`
	State      string            `json:"state,omitempty"`  // what the daemon says of itself; for clients "up" is good
	Listen     []string          `json:"listen,omitempty"` // where a relay can be reached
	Guards     []string          `json:"guards,omitempty"` // of a client, by name
	Consuming  string            `json:"consuming,omitempty"`
	Earning    string            `json:"earning,omitempty"`
	Interfaces []InterfaceStatus `json:"interfaces"`
	Log        string            `json:"log"`
}

// InterfaceStatus is one interface of a node, as it is now.
type InterfaceStatus struct {
	Name  string   `json:"name"`
	Addrs []string `json:"addrs"`
}

// CircuitStatus is one circuit of a client.
type CircuitStatus struct {
	Client  string   `json:"client"`
	ID      string   `json:"id"`
	State   string   `json:"state"`
	Hops    []string `json:"hops"` // by name, from the guard to the exit
	Exit    string   `json:"exit"`
	Streams int      `json:"streams"`
}

// WebStatus is where the outside world is.
type WebStatus struct {
	HTTP  string `json:"http"`
	HTTPS string `json:"https"`
	Name  string `json:"name"`
	DNS   string `json:"dns"`
	Echo  string `json:"echo"`
	CA    string `json:"ca"` // file of the authority to trust for HTTPS
}

// Status looks at everything.
func (l *Lab) Status(ctx context.Context) (Status, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	s := Status{Circuits: []CircuitStatus{}, Chain: l.state.Chain, Options: l.opts, Web: WebStatus{
		HTTP: "http://" + WebName, HTTPS: "https://" + WebName, Name: WebName, CA: l.opts.file(caFile),
		DNS: netip.AddrPortFrom(webV4, dnsPort).String(), Echo: netip.AddrPortFrom(webV4, echoPort).String(),
	}}
	for _, n := range l.plan.Nodes {
		ns, err := l.nodeStatus(ctx, n)
		if err != nil {
			return Status{}, err
		}
		s.Nodes = append(s.Nodes, ns)
		if n.Role == RoleClient && ns.PID != 0 {
			circuits, err := l.Circuits(ctx, n.Name)
			if err != nil && ns.State != "" {
				return Status{}, err
			}
			s.Circuits = append(s.Circuits, circuits...)
		}
	}
	return s, nil
}

func (l *Lab) nodeStatus(ctx context.Context, n Node) (NodeStatus, error) {
	s := NodeStatus{Name: n.Name, Role: n.Role, NetNS: n.Namespace, Key: l.state.Keys[n.Name], Log: l.opts.fileOf(n.Name, logFile)}
	s.Consuming, s.Earning = l.Wallets(n.Name)
	if p := l.state.Processes[n.Name]; p.alive() {
		s.PID = p.PID
	}
	if n.Relays() {
		for _, e := range n.Endpoints() {
			s.Listen = append(s.Listen, e.String())
		}
	}
	if n.Role == RoleClient {
		s.Guards = n.Neighbors
	}
	if n.Runs() {
		s.Control = l.opts.fileOf(n.Name, controlSocket)
		if c, err := l.Control(n.Name); err == nil {
			if st, err := c.Status(ctx); err == nil {
				s.State = string(st.State)
				if n.Relays() {
					s.State = fmt.Sprintf("%d links", st.Links)
				}
			}
		}
	}
	var err error
	s.Interfaces, err = interfaces(n.Namespace)
	return s, err
}

// interfaces lists what a namespace has besides loopback.
func interfaces(namespace string) ([]InterfaceStatus, error) {
	list := []InterfaceStatus{}
	err := netns.Do(namespace, func() error {
		ifaces, err := net.Interfaces()
		if err != nil {
			return fmt.Errorf("list interfaces: %w", err)
		}
		for _, i := range ifaces {
			if i.Flags&net.FlagLoopback != 0 {
				continue
			}
			addrs, err := i.Addrs()
			if err != nil {
				return fmt.Errorf("list addresses: %w", err)
			}
			s := InterfaceStatus{Name: i.Name, Addrs: []string{}}
			for _, a := range addrs {
				if !strings.HasPrefix(a.String(), "fe80:") {
					s.Addrs = append(s.Addrs, a.String())
				}
			}
			list = append(list, s)
		}
		return nil
	})
	slices.SortFunc(list, func(a, b InterfaceStatus) int { return strings.Compare(b.Name, a.Name) }) // phys0 first
	return list, err
}

// Circuits lists a client's circuits with names for node addresses.
func (l *Lab) Circuits(ctx context.Context, client string) ([]CircuitStatus, error) {
	c, err := l.Control(client)
	if err != nil {
		return nil, err
	}
	answer, err := c.Circuits(ctx)
	if err != nil {
		return nil, err
	}
	var list []CircuitStatus
	for _, e := range answer.Circuits {
		s := CircuitStatus{Client: client, ID: e.ID, State: string(e.State), Exit: l.NameOf(e.Exit), Streams: e.Streams, Hops: []string{}}
		for _, h := range e.Hops {
			s.Hops = append(s.Hops, l.NameOf(h.Node))
		}
		list = append(list, s)
	}
	return list, nil
}

// Open tells whether the circuit carries traffic.
func (c CircuitStatus) Open() bool { return c.State == string(control.CircuitOpen) }
