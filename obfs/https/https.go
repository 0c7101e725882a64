// Package https is a mask that is what it looks like: a web server with TLS 1.3
// and HTTP/2 that serves a real site to everybody, and a client that opens it as
// a browser does (docs/protocol.md section 8.3, docs/decisions/0001-https-mask.md).
//
// A node's client asks for the front page like any visitor; a cookie of that
// request is a MAC that only somebody who knows the node's address can make, bound
// to this TLS session. The answer is the site's own, whatever the cookie was. Only
// afterwards, when the client asks for the switch and its cookie was right, both
// ends leave HTTP and use the TLS connection as a plain stream of bytes.
//
// The package refuses to judge who the visitor is beyond that: links authenticate
// both ends themselves. It checks certificates only against a pin. It logs
// nothing, and its errors name no address.
//
// internal/node lists the mask; relay/link uses its connections. A listener locks
// its list of strangers and its replay cache each with one mutex; a connection
// locks its writers.
package https

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"time"

	"cuttle/obfs"
	"cuttle/relay/wire"
)

// Limits. A stranger is a connection that has not switched.
const (
	maxStrangers     = 128              // the one that came first is closed when another comes
	firstTimeout     = 20 * time.Second // for the TLS handshake, and again for a request over HTTP/1.1
	visitTimeout     = 2 * time.Minute  // between requests, and for writing an answer
	switchTimeout    = 10 * time.Second // from the switch until somebody accepts the connection
	dialTimeout      = 30 * time.Second // for everything Dial does
	closeTimeout     = 200 * time.Millisecond
	maxFrontPage     = 5 << 20 // bytes of the site's answer a client reads, below its flow-control windows
	maxAnswerFrames  = 4096    // frames a client reads before it gives up
	maxSwitchPayload = 1 << 14 // bytes, the largest frame HTTP/2 allows by default

	// silenceTimeout cuts a silent connection over HTTP/2 if nothing else does. The HTTP/2
	// server's timers, which say goodbye, come first: one for an answer, then one between requests.
	silenceTimeout = 2*visitTimeout + 30*time.Second
)

// ErrStranger is why Dial fails when a web server is there but does not take us
// for one of its own: another node's key, another kind of server, or clocks that
// are more than a minute apart.
var ErrStranger = errors.New("a web site answers, but not as the node we look for (wrong key, or a clock is wrong)")

// Mask is the https mask. The zero value is ready.
//
// Parameters of a descriptor: "name" is the host name shown to the server (when
// missing, the host of the address, if it is a name); "pin" is the SHA-256 of the
// certificate's public key, checked when given.
//
// Options: "cert" and "key" are PEM files (reread when they change); without them
// a certificate is made and kept in the state folder. "site" is a folder to serve;
// without it a small site drawn from the node's address is served. "name" goes
// into the certificate that we make.
type Mask struct{}

var _ obfs.Mask = Mask{}

// Name is "https".
func (Mask) Name() string { return "https" }

// Dial opens the site at the endpoint, shows that we know the node's address and
// switches. It fails with ErrStranger (errors.Is) when the server stays a web site.
func (Mask) Dial(ctx context.Context, d obfs.Dialer, to obfs.Endpoint) (net.Conn, error) {
	c, err := dial(ctx, d, to)
	if err != nil {
		return nil, fmt.Errorf("mask https: %w", obfs.Scrub(err))
	}
	return c, nil
}

// Listen serves the site on ln and gives the connections that switch.
func (Mask) Listen(ln net.Listener, o obfs.Options) (net.Listener, error) {
	l, err := listen(ln, o)
	if err != nil {
		return nil, fmt.Errorf("mask https: %w", err)
	}
	return l, nil
}

// derive gives a value that everybody who knows the node's address can compute,
// for one purpose.
func derive(node wire.NodeID, purpose string) [sha256.Size]byte {
	m := hmac.New(sha256.New, []byte("cuttle https mask v1"))
	m.Write(node[:])
	m.Write([]byte(purpose))
	return [sha256.Size]byte(m.Sum(nil))
}
