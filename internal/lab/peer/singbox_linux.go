package peer

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/netip"

	"cuttle/internal/lab/netns"
	"cuttle/internal/lab/web"
)

const (
	singBox     = "sing-box"
	singBoxPort = 8388
	method      = "2022-blake3-aes-128-gcm" // 16-byte keys
	trojanName  = "hop.example"
	tunName     = "sing0"
)

// part is a JSON object of sing-box's configuration
// (https://sing-box.sagernet.org/configuration/).
type part map[string]any

// singChain is what differs between sing-box's protocols: one hop's inbound, and
// the client's outbound to it.
type singChain struct {
	inbound  func(hop string) (part, error)
	outbound func(hop string) part
	mtu      int
}

func shadowsocks(mtu int) func(context.Context, *site) (string, error) {
	return func(ctx context.Context, s *site) (string, error) {
		keys := make(map[string]string)
		return s.singBox(ctx, singChain{
			mtu: mtu,
			inbound: func(hop string) (part, error) {
				key := make([]byte, 16)
				_, _ = rand.Read(key) // never fails
				keys[hop] = base64.StdEncoding.EncodeToString(key)
				return part{"type": "shadowsocks", "method": method, "password": keys[hop]}, nil
			},
			outbound: func(hop string) part {
				return part{"type": "shadowsocks", "method": method, "password": keys[hop]}
			},
		})
	}
}

func trojan(ctx context.Context, s *site) (string, error) {
	ca, err := web.NewAuthority("peer")
	if err != nil {
		return "", err
	}
	trusted, err := s.write(guest(s.client), "ca.pem", ca.PEM())
	if err != nil {
		return "", err
	}
	password := rand.Text()
	return s.singBox(ctx, singChain{
		mtu: 65535,
		inbound: func(hop string) (part, error) {
			cert, key, err := ca.Issue(trojanName, nil)
			if err != nil {
				return nil, err
			}
			certFile, err := s.write(guest(hop), "cert.pem", cert)
			if err != nil {
				return nil, err
			}
			keyFile, err := s.write(guest(hop), "key.pem", key)
			if err != nil {
				return nil, err
			}
			return part{
				"type": "trojan", "users": []part{{"name": "client", "password": password}},
				"tls": part{"enabled": true, "min_version": "1.3", "certificate_path": certFile, "key_path": keyFile},
			}, nil
		},
		outbound: func(string) part {
			return part{
				"type": "trojan", "password": password,
				"tls": part{"enabled": true, "min_version": "1.3", "server_name": trojanName, "certificate_path": trusted},
			}
		},
	})
}

// singBox starts the hops and then the client, whose outbound to each hop goes
// through the one before.
func (s *site) singBox(ctx context.Context, c singChain) (string, error) {
	var outbounds []part
	for i, hop := range s.hops {
		in, err := c.inbound(hop)
		if err != nil {
			return "", err
		}
		in["listen"], in["listen_port"] = "0.0.0.0", singBoxPort
		if err := s.startSingBox(ctx, hop, part{"inbounds": []part{in}, "outbounds": []part{{"type": "direct"}}}); err != nil {
			return "", err
		}
		if err := s.listens(ctx, hop, singBoxPort); err != nil {
			return "", err
		}
		out := c.outbound(hop)
		out["tag"], out["server"], out["server_port"] = hop, s.address(hop).String(), singBoxPort
		if i > 0 {
			out["detour"] = s.hops[i-1]
		}
		outbounds = append(outbounds, out)
	}
	err := s.startSingBox(ctx, s.client, part{
		"inbounds": []part{{
			"type": "tun", "interface_name": tunName, "address": []string{"172.19.0.1/30"}, "mtu": c.mtu, "stack": "gvisor", "auto_route": false,
		}},
		"outbounds": outbounds,
		"route":     part{"final": s.hops[len(s.hops)-1]},
	})
	if err != nil {
		return "", err
	}
	ns := s.namespace(s.client)
	if err := s.until(ctx, guest(s.client), readyTimeout, func() (bool, error) { return netns.HasDevice(ns, tunName) }); err != nil {
		return "", err
	}
	return "", netns.SetRoutes(ns, netns.Route{To: netip.PrefixFrom(s.server, 32), Device: tunName})
}

func (s *site) startSingBox(ctx context.Context, node string, config part) error {
	config["log"] = part{"level": "error", "timestamp": true}
	text, err := json.MarshalIndent(config, "", "\t")
	if err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	file, err := s.write(guest(node), "config.json", text)
	if err != nil {
		return err
	}
	return s.run(ctx, guest(node), node, singBox, "run", "-c", file)
}
