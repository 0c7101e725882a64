package peer

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"cuttle/internal/lab/netns"
)

const (
	wireguardGo   = "wireguard"
	wireguardPort = 51820
	wireguardMTU  = 1440 // of the outermost tunnel over IPv4 and Ethernet
	wireguardHead = 60   // what each tunnel over IPv4 takes of the one around it
)

// tunnel is one of a client's tunnels, from the outermost: to hop, in network
// 10.66.k.0/24.
type tunnel struct {
	k   int
	hop string
}

func (t tunnel) end(host byte) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 66, byte(t.k), host}), 24)
}

// wireguard nests n tunnels: the packets of each go through the one before it.
// The last hop's plain packets go on along the line of nodes.
func wireguard(n int) func(context.Context, *site) (string, error) {
	return func(ctx context.Context, s *site) (string, error) {
		for i, hop := range s.hops[:n] {
			t := tunnel{k: i + 1, hop: hop}
			target := s.server
			if i < n-1 {
				target = s.address(s.hops[i+1])
			}
			if err := s.tunnel(ctx, t, target); err != nil {
				return "", err
			}
		}
		return "", nil
	}
}

// tunnel makes one tunnel and routes target through it; answers find back along
// the line.
func (s *site) tunnel(ctx context.Context, t tunnel, target netip.Addr) error {
	client, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return fmt.Errorf("make key: %w", err)
	}
	hop, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return fmt.Errorf("make key: %w", err)
	}
	// Sockets of wireguard-go share one folder: names are the lab's own.
	lab := crc32.ChecksumIEEE([]byte(s.lab.Plan().Options.State)) & 0xffff
	near, far := fmt.Sprintf("wg%04xc%d", lab, t.k), fmt.Sprintf("wg%04xs%d", lab, t.k)
	if err := s.wireguardEnd(ctx, s.client, near, t, 2,
		fmt.Sprintf("private_key=%x\npublic_key=%x\nendpoint=%s\nallowed_ip=0.0.0.0/0\n", client.Bytes(), hop.PublicKey().Bytes(),
			netip.AddrPortFrom(s.address(t.hop), wireguardPort))); err != nil {
		return err
	}
	if err := s.wireguardEnd(ctx, t.hop, far, t, 1,
		fmt.Sprintf("private_key=%x\nlisten_port=%d\npublic_key=%x\nallowed_ip=%s\n", hop.Bytes(), wireguardPort, client.PublicKey().Bytes(), t.end(2).Masked())); err != nil {
		return err
	}
	route := netns.Route{To: netip.PrefixFrom(target, 32), Device: near, From: t.end(2).Addr()}
	if err := netns.SetRoutes(s.namespace(s.client), route); err != nil {
		return err
	}
	beyond := append(append([]string{}, s.hops[t.k:]...), "web")
	before := t.hop
	for _, node := range beyond {
		back := netns.Route{To: t.end(2).Masked(), Device: "left0", By: s.address(before)}
		if err := netns.SetRoutes(s.namespace(node), back); err != nil {
			return err
		}
		before = node
	}
	return nil
}

// wireguardEnd runs one end of a tunnel and configures it over its socket
// (https://www.wireguard.com/xplatform/).
func (s *site) wireguardEnd(ctx context.Context, node, device string, t tunnel, host byte, config string) error {
	name := fmt.Sprintf("%s-%d", guest(node), t.k)
	if err := s.run(ctx, name, node, wireguardGo, "-f", device); err != nil {
		return err
	}
	socket := filepath.Join("/var/run/wireguard", device+".sock")
	err := s.until(ctx, name, readyTimeout, func() (bool, error) {
		if _, err := os.Stat(socket); err != nil {
			return false, err
		}
		return true, tell(ctx, socket, config)
	})
	if err != nil {
		return err
	}
	return netns.SetDevice(s.namespace(node), device, wireguardMTU-wireguardHead*(t.k-1), t.end(host))
}

// tell sends a configuration and waits for "errno=0".
func tell(ctx context.Context, socket, config string) error {
	c, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return fmt.Errorf("configure wireguard-go: %w", err)
	}
	defer func() { _ = c.Close() }()
	if err := c.SetDeadline(time.Now().Add(readyTimeout)); err != nil {
		return err
	}
	if _, err := io.WriteString(c, "set=1\n"+config+"\n"); err != nil {
		return fmt.Errorf("configure wireguard-go: %w", err)
	}
	buf := make([]byte, 256)
	n, err := c.Read(buf)
	if answer := strings.TrimSpace(string(buf[:n])); answer != "errno=0" {
		return fmt.Errorf("configure wireguard-go: it answers %q, %w", answer, err)
	}
	return nil
}
