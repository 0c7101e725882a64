package lan

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"time"

	"github.com/mdlayher/ndp"
)

// Times of router advertisements, RFC 4861 section 6.2.1.
const (
	advertiseEvery = 60 * time.Second
	routerLifetime = 30 * time.Minute
	prefixLifetime = 2 * time.Hour
	answerPause    = time.Second // between answers to solicitations
	linkPause      = 200 * time.Millisecond
)

var (
	allNodes   = netip.MustParseAddr("ff02::1")
	allRouters = netip.MustParseAddr("ff02::2")
)

// advertise sends router advertisements until ctx ends, and says then that the
// router has gone.
func (s *Server) advertise(ctx context.Context, link *net.Interface) error {
	conn, err := listen(ctx, link)
	if err != nil || conn == nil {
		return err
	}
	asked := make(chan struct{}, 1)
	read := make(chan error, 1)
	go func() { read <- solicitations(conn, asked) }() // ends when conn is closed
	tick := time.NewTicker(advertiseEvery)
	defer tick.Stop()
	for failed := error(nil); ; {
		lifetime := routerLifetime
		if ctx.Err() != nil {
			lifetime = 0
		}
		_ = conn.WriteTo(s.advertisement(link, lifetime), nil, allNodes) // a loss is repaired by the next
		if lifetime == 0 || failed != nil {
			err := conn.Close()
			if failed == nil {
				<-read //nolint:errcheck // because it is closed
			}
			return errors.Join(failed, err)
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		case failed = <-read:
		case <-asked:
			select {
			case <-time.After(answerPause):
			case <-ctx.Done():
			}
		}
	}
}

// listen waits until the interface has a link-local address; nil without an error:
// ctx has ended.
func listen(ctx context.Context, link *net.Interface) (*ndp.Conn, error) {
	tick := time.NewTicker(linkPause)
	defer tick.Stop()
	for {
		conn, _, err := ndp.Listen(link, ndp.LinkLocal)
		if err == nil {
			if err = conn.JoinGroup(allRouters); err == nil {
				return conn, nil
			}
			return nil, errors.Join(err, conn.Close())
		}
		if errors.Is(err, fs.ErrPermission) {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, nil //nolint:nilnil // the end is no error
		case <-tick.C:
		}
	}
}

// solicitations notes that hosts have asked.
func solicitations(conn *ndp.Conn, asked chan<- struct{}) error {
	for {
		m, _, _, err := conn.ReadFrom()
		if err != nil {
			var closed *net.OpError
			if errors.As(err, &closed) {
				return err
			}
			continue // not a message of this kind
		}
		if _, ok := m.(*ndp.RouterSolicitation); !ok {
			continue
		}
		select {
		case asked <- struct{}{}:
		default:
		}
	}
}

func (s *Server) advertisement(link *net.Interface, lifetime time.Duration) *ndp.RouterAdvertisement {
	var servers []netip.Addr
	for _, a := range s.cfg.DNS {
		if a.Is6() {
			servers = append(servers, a)
		}
	}
	ra := &ndp.RouterAdvertisement{CurrentHopLimit: 64, RouterLifetime: lifetime, Options: []ndp.Option{
		&ndp.PrefixInformation{PrefixLength: 64, OnLink: true, AutonomousAddressConfiguration: true,
			ValidLifetime: prefixLifetime, PreferredLifetime: prefixLifetime, Prefix: s.cfg.Network6.Masked().Addr()},
		&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: link.HardwareAddr},
	}}
	if len(servers) > 0 {
		ra.Options = append(ra.Options, &ndp.RecursiveDNSServer{Lifetime: lifetime, Servers: servers})
	}
	return ra
}
