package lan

import (
	"context"
	"errors"

	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/server4"
)

const (
	saveEvery  = 5 * time.Second // leases that have changed
	maxMessage = 1500            // bytes
)

// dhcp answers DHCP messages until ctx ends.
func (s *Server) dhcp(ctx context.Context, link *net.Interface) error {
	conn, err := server4.NewIPv4UDPConn(link.Name, &net.UDPAddr{Port: dhcpv4.ServerPort})
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	buf := make([]byte, maxMessage)
	saved := time.Now()
	for {
		if err := conn.SetReadDeadline(time.Now().Add(saveEvery)); err != nil && ctx.Err() == nil {
			return err
		}
		n, from, err := conn.ReadFrom(buf)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(saved) > saveEvery {
			saved = time.Now()
			if err := s.table.save(); err != nil {
				s.cfg.Log.Warn("leases are not kept", "err", err)
			}
		}
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			continue
		}
		if err != nil {
			return err
		}
		reply, to := s.message(buf[:n], from, time.Now())
		if reply != nil {
			_, _ = conn.WriteTo(reply, to) // the host asks again
		}
	}
}

// message gives the answer to a DHCP message and where it goes, or nil.
func (s *Server) message(b []byte, from net.Addr, now time.Time) ([]byte, net.Addr) {
	m, err := dhcpv4.FromBytes(b)
	if err != nil || m.OpCode != dhcpv4.OpcodeBootRequest || len(m.ClientHWAddr) != 6 || !m.GatewayIPAddr.IsUnspecified() {
		return nil, nil
	}
	mac := m.ClientHWAddr.String()
	if s.cfg.Refused(mac) {
		return nil, nil
	}
	if id := m.ServerIdentifier(); id != nil && !id.IsUnspecified() && address(id) != s.cfg.Address.Addr() {
		return nil, nil // meant for another server
	}
	answer, yours := s.decide(m, mac, now)
	if answer == dhcpv4.MessageTypeNone {
		return nil, nil
	}
	reply, err := dhcpv4.NewReplyFromRequest(m, s.options(answer, yours)...)
	if err != nil {
		return nil, nil
	}
	to := &net.UDPAddr{IP: net.IPv4bcast, Port: dhcpv4.ClientPort}
	if peer, ok := from.(*net.UDPAddr); ok && answer == dhcpv4.MessageTypeAck && !m.ClientIPAddr.IsUnspecified() && peer.IP.Equal(m.ClientIPAddr) && s.table.own.Contains(address(peer.IP)) {
		to.IP = peer.IP
	}
	return reply.ToBytes(), to
}

// decide is the state machine of RFC 2131 section 4.3.
func (s *Server) decide(m *dhcpv4.DHCPv4, mac string, now time.Time) (dhcpv4.MessageType, netip.Addr) {
	wanted := address(m.RequestedIPAddress())
	if !wanted.IsValid() && !m.ClientIPAddr.IsUnspecified() {
		wanted = address(m.ClientIPAddr)
	}
	switch m.MessageType() { //nolint:exhaustive // the others are answers
	case dhcpv4.MessageTypeDiscover:
		if a, ok := s.table.offer(mac, wanted, now); ok {
			return dhcpv4.MessageTypeOffer, a
		}
	case dhcpv4.MessageTypeRequest:
		if s.table.take(mac, m.HostName(), wanted, now) {
			return dhcpv4.MessageTypeAck, wanted
		}
		return dhcpv4.MessageTypeNak, netip.Addr{}
	case dhcpv4.MessageTypeInform:
		return dhcpv4.MessageTypeAck, netip.Addr{}
	case dhcpv4.MessageTypeRelease:
		s.table.drop(mac, wanted, now)
	case dhcpv4.MessageTypeDecline:
		s.table.decline(mac, wanted, now)
	}
	return dhcpv4.MessageTypeNone, netip.Addr{}
}

func (s *Server) options(kind dhcpv4.MessageType, yours netip.Addr) []dhcpv4.Modifier {
	own := net.IP(s.cfg.Address.Addr().AsSlice())
	out := []dhcpv4.Modifier{dhcpv4.WithMessageType(kind), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(own))}
	if kind == dhcpv4.MessageTypeNak {
		return out
	}
	var servers []net.IP
	for _, a := range s.cfg.DNS {
		if a.Is4() {
			servers = append(servers, a.AsSlice())
		}
	}
	out = append(out, dhcpv4.WithNetmask(net.CIDRMask(s.cfg.Address.Bits(), 32)), dhcpv4.WithOption(dhcpv4.OptRouter(own)), dhcpv4.WithOption(dhcpv4.OptDNS(servers...)))
	if yours.IsValid() {
		out = append(out, dhcpv4.WithYourIP(yours.AsSlice()), dhcpv4.WithLeaseTime(uint32(s.cfg.Lease/time.Second)))
	}
	return out
}

func address(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	if a = a.Unmap(); a.IsUnspecified() {
		return netip.Addr{}
	}
	return a
}
