// Package stack turns the packets of a TUN device into flows and back: a gVisor
// netstack that is every host of the internet at once.
//
//	tun.Device -> link (link.go: checks, ICMP, offloads)
//	           -> gVisor IPv4/IPv6, reassembly
//	           -> TCP   tcp.go    dial first, then finish the handshake, then copy
//	              UDP   udp.go    one PacketConn per (source, destination)
//	              echo  echo.go   one PacketConn per (source, identifier, destination)
//	              :53   dns.go    every DNS question goes to Dialer.Resolve
//	           -> Dialer
//
// TCP ends here, so its segments may be as large as the device takes, whatever
// the path beyond carries. A UDP datagram does not end here: one with DF set
// that a 1500-byte path could not carry is answered with ICMP "too big", so that
// programs that look for the path MTU (QUIC) find it.
//
// The package opens no sockets, edits nothing of the host, and knows nothing of
// circuits: internal/node gives it a device and a Dialer. It logs no address.
// ICMP echo is carried, but for fragments of it. Those, and every other protocol
// but TCP and UDP, are answered with "administratively prohibited", so that
// programs fail at once instead of hanging.
//
// A Stack is run once. Counters are atomic; tables of flows have a mutex each,
// named where they are defined.
package stack

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	netstack "gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"cuttle/tun"
)

// DefaultMTU is the MTU that a device should be opened with, in bytes. Because
// super-packets cross the device whole, a larger one gains little for TCP (see
// the benchmarks), and with 1500 the kernel itself tells UDP programs the truth
// about the path.
const DefaultMTU = 1500

// Limits and times. Those that a Config can change are its defaults.
const (
	defaultPathMTU      = 1500             // bytes an ordinary internet path carries
	defaultMaxTCP       = 10_240           // flows
	defaultMaxUDP       = 6144             // flows
	defaultMaxUDPSource = 5120             // flows of one source address
	defaultMaxBuffer    = 4 << 20          // bytes, each direction of a TCP flow
	initialBuffer       = 256 << 10        // bytes, before tuning
	minBuffer           = 4 << 10          // bytes
	maxHandshakes       = 1024             // TCP handshakes under way; further SYNs wait for a retransmission
	maxResolves         = 256              // DNS questions under way; further ones get SERVFAIL
	dialTimeout         = 30 * time.Second // for Dialer.DialTCP and DialUDP
	resolveTimeout      = 10 * time.Second // for Dialer.Resolve
	closeTimeout        = 5 * time.Second  // for everything to end after Run's context has
	udpIdle             = 2 * time.Minute  // of a UDP flow that was answered
	udpUnreplied        = 30 * time.Second // of one that was not
	maxEcho             = 256              // echo flows
	maxEchoSource       = 128              // of one source address
	dnsIdle             = 30 * time.Second // of a DNS connection over TCP
	nicID               = tcpip.NICID(1)
)

// Config is what a Stack needs. Zero limits mean the defaults.
type Config struct {
	Device tun.Device   // closed when Run returns
	Dialer Dialer       // carries the flows
	Log    *slog.Logger // start and end, with totals; never an address

	// Peers has one flow carry all that a UDP socket of a program says to public
	// addresses, so that peers see one address of it (RFC 4787 REQ-1): the Dialer's
	// flows are Peers then.
	Peers bool

	MTU          int // of the device, bytes; 0: Device.MTU()
	PathMTU      int // largest UDP packet with DF that is taken, bytes; 0: 1500
	MaxTCP       int // TCP flows at once
	MaxUDP       int // UDP flows at once
	MaxUDPSource int // UDP flows of one source address at once
	MaxBuffer    int // bytes buffered per direction of a TCP flow, at most
}

// Stack is one netstack on one device.
type Stack struct {
	cfg  Config
	net  *netstack.Stack
	link *link
	udp  *udpTable
	echo *udpTable // of echo flows; the identifier is the source's port
	syns synTable

	resolves chan struct{} // a token for each question under way
	tcpFlows atomic.Int64

	// begun is guarded by mu: goroutines are added to running only while it
	// says open.
	mu      sync.Mutex
	open    bool
	ctx     context.Context //nolint:containedctx // the life of Run, for callbacks of gVisor that carry none
	running sync.WaitGroup
}

// New checks cfg and builds a stack; it starts nothing.
func New(cfg Config) (*Stack, error) {
	if cfg.Device == nil || cfg.Dialer == nil || cfg.Log == nil {
		return nil, errors.New("stack needs a device, a dialer and a log")
	}
	fill := func(v *int, value int) {
		if *v == 0 {
			*v = value
		}
	}
	fill(&cfg.MTU, cfg.Device.MTU())
	fill(&cfg.PathMTU, defaultPathMTU)
	fill(&cfg.MaxTCP, defaultMaxTCP)
	fill(&cfg.MaxUDP, defaultMaxUDP)
	fill(&cfg.MaxUDPSource, defaultMaxUDPSource)
	fill(&cfg.MaxBuffer, defaultMaxBuffer)
	switch {
	case cfg.MTU < header.IPv6MinimumMTU || cfg.MTU > tun.MaxPacket:
		return nil, fmt.Errorf("mtu %d is not in %d to %d", cfg.MTU, header.IPv6MinimumMTU, tun.MaxPacket)
	case cfg.PathMTU < header.IPv6MinimumMTU:
		return nil, fmt.Errorf("path mtu %d is below %d", cfg.PathMTU, header.IPv6MinimumMTU)
	case cfg.MaxTCP < 1 || cfg.MaxUDP < 1 || cfg.MaxUDPSource < 1 || cfg.MaxBuffer < initialBuffer:
		return nil, fmt.Errorf("a limit is too small")
	}
	s := &Stack{cfg: cfg, resolves: make(chan struct{}, maxResolves)}
	s.link = newLink(cfg.Device, cfg.MTU, cfg.PathMTU)
	s.udp = newUDPTable(cfg.MaxUDP, cfg.MaxUDPSource)
	s.echo = newUDPTable(maxEcho, maxEchoSource)
	s.link.echo = s.ping
	return s, nil
}

// Stats are counters since the start.
type Stats struct {
	TCPFlows, UDPFlows int    // now
	Received, Sent     uint64 // packets; a super-packet counts once
	Dropped            uint64 // malformed packets, and those the device did not take
}

// Stats reads the counters.
func (s *Stack) Stats() Stats {
	return Stats{
		TCPFlows: int(s.tcpFlows.Load()),
		UDPFlows: s.udp.len(),
		Received: s.link.received.Load(),
		Sent:     s.link.sent.Load(),
		Dropped:  s.link.dropped.Load(),
	}
}

// Run carries packets until ctx ends (nil) or the device fails (an error), and
// has then ended every flow, goroutine and the device. Flows that are open are
// reset on both sides.
func (s *Stack) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := s.start(ctx); err != nil {
		return errors.Join(fmt.Errorf("start netstack: %w", err), s.cfg.Device.Close())
	}
	reading := make(chan error, 1)
	s.cfg.Log.Debug("netstack started", "mtu", s.cfg.MTU, "offloads", s.link.offloads)
	go func() { reading <- s.link.read() }() // ends when the device is closed or fails
	var failed error
	read := false
	select {
	case <-ctx.Done():
	case failed = <-reading:
		read = true
		cancel()
	}
	err := s.stop()
	if cerr := s.cfg.Device.Close(); cerr != nil {
		err = errors.Join(err, fmt.Errorf("close device: %w", cerr))
	}
	if !read {
		<-reading //nolint:errcheck // ErrClosed
	}
	stats := s.Stats()
	s.cfg.Log.Debug("netstack stopped", "received", stats.Received, "sent", stats.Sent, "dropped", stats.Dropped)
	if err == nil {
		s.net.Wait() // every flow has ended, so this is short
	}
	return errors.Join(failed, err)
}

// start builds the netstack with its forwarders and opens it for flows.
func (s *Stack) start(ctx context.Context) error {
	s.mu.Lock()
	if s.ctx != nil {
		s.mu.Unlock()
		return errors.New("stack is run only once")
	}
	s.open, s.ctx = true, ctx
	s.mu.Unlock()
	s.net = netstack.New(netstack.Options{
		NetworkProtocols:   []netstack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol},
		TransportProtocols: []netstack.TransportProtocolFactory{tcp.NewProtocolCUBIC, udp.NewProtocol},
		DefaultIPTables:    nil,
	})
	if err := tune(s.net, s.cfg.MaxBuffer); err != nil {
		return err
	}
	forwarder := tcp.NewForwarder(s.net, initialBuffer, maxHandshakes, s.accept)
	s.net.SetTransportProtocolHandler(tcp.ProtocolNumber, func(id netstack.TransportEndpointID, pkt *netstack.PacketBuffer) bool {
		fresh, full := s.syns.note(id, pkt)
		if full {
			return true // the program's kernel sends it again
		}
		handled := forwarder.HandlePacket(id, pkt)
		if fresh && !handled {
			s.syns.drop(id)
		}
		return handled
	})
	s.net.SetTransportProtocolHandler(udp.ProtocolNumber, s.datagram)
	if err := s.net.CreateNIC(nicID, s.link); err != nil {
		return fmt.Errorf("create interface: %s", err)
	}
	if err := s.net.SetPromiscuousMode(nicID, true); err != nil {
		return fmt.Errorf("promiscuous mode: %s", err)
	}
	if err := s.net.SetSpoofing(nicID, true); err != nil {
		return fmt.Errorf("spoofing: %s", err)
	}
	s.net.SetRouteTable([]tcpip.Route{
		{Destination: header.IPv4EmptySubnet, NIC: nicID},
		{Destination: header.IPv6EmptySubnet, NIC: nicID},
	})
	return nil
}

// tune sets the options of TCP.
func tune(n *netstack.Stack, maxBuffer int) error {
	sack := tcpip.TCPSACKEnabled(true)
	rack := tcpip.TCPRACKLossDetection
	moderate := tcpip.TCPModerateReceiveBufferOption(true)
	control := tcpip.CongestionControlOption("cubic")
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: minBuffer, Default: initialBuffer, Max: maxBuffer}
	send := tcpip.TCPSendBufferSizeRangeOption{Min: minBuffer, Default: initialBuffer, Max: maxBuffer}
	// The other end is this machine or its LAN: nothing old is under way.
	wait := tcpip.TCPTimeWaitTimeoutOption(5 * time.Second)
	for _, option := range []tcpip.SettableTransportProtocolOption{&sack, &rack, &moderate, &control, &receive, &send, &wait} {
		if err := n.SetTransportProtocolOption(tcp.ProtocolNumber, option); err != nil {
			return fmt.Errorf("set %T: %s", option, err)
		}
	}
	return nil
}

// stop ends all flows and waits for their goroutines.
func (s *Stack) stop() error {
	s.mu.Lock()
	s.open = false
	s.mu.Unlock()
	s.net.Close() // aborts every endpoint: programs see a reset
	done := make(chan struct{})
	go func() { s.running.Wait(); close(done) }() // ends with the last flow, whose dialer's contract bounds it
	timer := time.NewTimer(closeTimeout)
	defer timer.Stop()
	select {
	case <-done:
		return nil
	case <-timer.C:
		return errors.New("flows did not end in time")
	}
}

// enter registers a goroutine of a flow; false once the stack is stopping. A
// caller that got true calls s.running.Done when the goroutine ends.
func (s *Stack) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open {
		s.running.Add(1)
	}
	return s.open
}
