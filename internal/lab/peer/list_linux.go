package peer

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"cuttle/internal/lab"
	"cuttle/internal/lab/netns"
)

// Peer is another VPN in one configuration.
type Peer struct {
	Key     string // a word for the command line
	Name    string // for people
	Slow    bool   // it takes more than a minute to get ready
	program string // its file in the folder of programs
	start   func(ctx context.Context, s *site) (proxy string, err error)
}

// All are the peers that can be run.
func All() []Peer {
	return []Peer{
		{Key: "shadowsocks", Name: "sing-box, shadowsocks x3, TUN MTU 65535", program: singBox, start: shadowsocks(65535)},
		{Key: "shadowsocks-1500", Name: "sing-box, shadowsocks x3, TUN MTU 1500", program: singBox, start: shadowsocks(1500)},
		{Key: "trojan", Name: "sing-box, trojan over TLS 1.3 x3, TUN MTU 65535", program: singBox, start: trojan},
		{Key: "wireguard-3", Name: "wireguard-go, 3 nested tunnels", program: wireguardGo, start: wireguard(3)},
		{Key: "wireguard-1", Name: "wireguard-go, 1 hop", program: wireguardGo, start: wireguard(1)},
		{Key: "tor", Name: "Tor, private network, SOCKS", Slow: true, program: torProgram, start: tor},
	}
}

// ErrMissing says that a peer's program is not there.
var ErrMissing = errors.New("its program is not there: make peers")

// site is where a peer is started.
type site struct {
	lab    *lab.Lab
	folder string // of programs
	client string
	hops   []string // the last one reaches the server
	server netip.Addr
}

// Start runs the peer on the client and the hops, so that what the client sends
// to the server's address goes through them; or gives the URL of a SOCKS proxy
// by which it does.
func (p Peer) Start(ctx context.Context, l *lab.Lab, folder, client string, hops []string) (proxy string, err error) {
	if _, err := os.Stat(filepath.Join(folder, p.program)); err != nil {
		return "", ErrMissing
	}
	web, ok := l.Plan().Node("web")
	if !ok {
		return "", errors.New("the lab has no server")
	}
	return p.start(ctx, &site{lab: l, folder: folder, client: client, hops: hops, server: web.Hosts()[0]})
}

// address is a node's IPv4 address.
func (s *site) address(node string) netip.Addr {
	n, _ := s.lab.Plan().Node(node)
	return n.Hosts()[0]
}

func (s *site) namespace(node string) string {
	n, _ := s.lab.Plan().Node(node)
	return n.Namespace
}

// guest is the name of the peer's process on a node. It is not the node's own,
// which is a daemon's of ours.
func guest(node string) string { return "peer-" + node }

// run starts the peer's program on a node.
func (s *site) run(ctx context.Context, name, node, program string, args ...string) error {
	return s.lab.Guest(ctx, name, node, append([]string{filepath.Join(s.folder, program)}, args...)...)
}

// readyTimeout bounds how long a peer may take to get ready.
const readyTimeout = 30 * time.Second

// until waits for something that a process brings about.
func (s *site) until(ctx context.Context, name string, limit time.Duration, ready func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	t := time.NewTicker(50 * time.Millisecond)
	defer t.Stop()
	for {
		ok, err := ready()
		if ok {
			return nil
		}
		lives, last := s.lab.Lives(name)
		if !lives {
			return errors.Join(fmt.Errorf("%s has ended: %s", name, last), err)
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("%s does not get ready: %w", name, ctx.Err()), err)
		case <-t.C:
		}
	}
}

// listens waits until the peer's process on a node takes TCP connections.
func (s *site) listens(ctx context.Context, node string, port uint16) error {
	at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port).String()
	return s.until(ctx, guest(node), readyTimeout, func() (bool, error) {
		c, err := netns.Dial(ctx, s.namespace(node), "tcp", at)
		if err != nil {
			return false, err
		}
		return true, c.Close()
	})
}

// write puts a file into the folder of a guest.
func (s *site) write(name, file string, content []byte) (path string, err error) {
	folder, err := s.lab.Folder(name)
	if err != nil {
		return "", err
	}
	path = filepath.Join(folder, file)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		return "", fmt.Errorf("write %s: %w", file, err)
	}
	return path, nil
}
