package lan

import (
	"context"
	"errors"
	"io/fs"
	"net"
)

// ErrPermission says that this process may not serve a LAN.
var ErrPermission = errors.New("may not open the sockets that serve a LAN")

// Permitted tells whether this process may open the sockets of a Server, which takes
// CAP_NET_BIND_SERVICE and CAP_NET_RAW: ErrPermission if not. It opens some of
// their kind on the loopback interface and closes them.
func Permitted() error {
	var config net.ListenConfig
	for network, address := range map[string]string{"udp4": "127.0.0.1:67", "ip6:ipv6-icmp": "::1"} {
		c, err := config.ListenPacket(context.Background(), network, address)
		switch {
		case errors.Is(err, fs.ErrPermission):
			return ErrPermission
		case err == nil:
			_ = c.Close() // nothing was sent
		}
	}
	return nil // another reason is told by Run
}
