package https

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"time"

	utls "github.com/refraction-networking/utls"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"cuttle/obfs"
)

// stream is the HTTP/2 stream of the only request a client makes.
const stream = 1

// Sizes of the two messages that ask for and confirm the switch, bytes; drawn
// anew each time. The first is in the range of a browser's later requests.
const (
	askMin, askMax         = 60, 180
	confirmMin, confirmMax = 300, 1300
)

// dial does everything within ctx and dialTimeout.
func dial(ctx context.Context, d obfs.Dialer, to obfs.Endpoint) (*tunnel, error) {
	if err := obfs.Only(to.Params, "name", "pin"); err != nil {
		return nil, err
	}
	conf, err := clientConfig(to)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	tcp, err := d.DialContext(ctx, "tcp", to.Address)
	if err != nil {
		return nil, err
	}
	raw := &rawConn{Conn: tcp}
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() }) // ends at once; undone by stop
	t, err := open(raw, conf, to)
	if !stop() {
		_ = raw.Close()
		return nil, fmt.Errorf("connect: %w", context.Cause(ctx))
	}
	if err != nil {
		_ = raw.Close()
		return nil, err
	}
	return t, nil
}

func clientConfig(to obfs.Endpoint) (*utls.Config, error) {
	host, _, err := net.SplitHostPort(to.Address)
	if err != nil {
		return nil, errors.New("address: want host:port")
	}
	name := to.Params["name"]
	if _, err := netip.ParseAddr(host); err != nil && name == "" {
		name = host
	}
	conf := &utls.Config{
		ServerName: name, // "" shows no name, as browsers do for addresses
		// Nothing rests on the certificate: the link authenticates the node.
		InsecureSkipVerify:          true,
		MinVersion:                  utls.VersionTLS13,
		DynamicRecordSizingDisabled: true, // browsers do not either
	}
	if text := to.Params["pin"]; text != "" {
		pin, err := obfs.ParsePin(text)
		if err != nil {
			return nil, fmt.Errorf("pin: %w", err)
		}
		conf.VerifyConnection = func(s utls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 {
				return errors.New("no certificate")
			}
			got := sha256.Sum256(s.PeerCertificates[0].RawSubjectPublicKeyInfo)
			if subtle.ConstantTimeCompare(got[:], pin[:]) != 1 {
				return errors.New("the certificate is not the one that is pinned")
			}
			return nil
		}
	}
	return conf, nil
}

// open runs TLS, the visit and the switch on an open connection.
func open(raw *rawConn, conf *utls.Config, to obfs.Endpoint) (*tunnel, error) {
	conn := utls.UClient(raw, conf, utls.HelloCustom)
	if err := conn.ApplyPreset(hello()); err != nil {
		return nil, fmt.Errorf("client hello: %w", err)
	}
	if err := conn.Handshake(); err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	state := conn.ConnectionState()
	if state.Version != utls.VersionTLS13 || state.NegotiatedProtocol != http2.NextProtoTLS {
		return nil, fmt.Errorf("server has no TLS 1.3 with HTTP/2: %w", ErrStranger)
	}
	b, err := bind(&state)
	if err != nil {
		return nil, fmt.Errorf("channel binding: %w", err)
	}
	p := newProver(to.Node)
	c := newClaim(b, time.Now())
	authority := conf.ServerName
	if authority == "" {
		authority, _, _ = net.SplitHostPort(to.Address) // checked by clientConfig
	}
	v := &visit{conn: conn, framer: http2.NewFramer(conn, conn)}
	v.framer.SetMaxReadFrameSize(maxSwitchPayload) // as HTTP/2 has it for who announces nothing
	if err := v.request(authority, p.cookie+"="+p.value(c)); err != nil {
		return nil, fmt.Errorf("request: %w", err)
	}
	if err := v.readPage(); err != nil {
		return nil, fmt.Errorf("read page: %w", err)
	}
	if err := v.leave(p.answer(c)); err != nil {
		return nil, fmt.Errorf("switch: %w", err)
	}
	return newTunnel(conn, raw), nil
}

// visit is the client's HTTP/2 side until the switch. It reads whole frames and
// not one byte more.
type visit struct {
	conn   net.Conn
	framer *http2.Framer
}

// request sends what Chrome sends first: its settings in one record, the request
// for the front page in the next.
func (v *visit) request(authority, cookie string) error {
	var first bytes.Buffer
	first.WriteString(http2.ClientPreface)
	f := http2.NewFramer(&first, nil)
	if err := errors.Join(
		f.WriteSettings(
			http2.Setting{ID: http2.SettingHeaderTableSize, Val: 65536},
			http2.Setting{ID: http2.SettingEnablePush, Val: 0},
			http2.Setting{ID: http2.SettingInitialWindowSize, Val: 6291456},
			http2.Setting{ID: http2.SettingMaxHeaderListSize, Val: 262144},
		),
		f.WriteWindowUpdate(0, 15663105),
	); err != nil {
		return err
	}
	if _, err := v.conn.Write(first.Bytes()); err != nil {
		return err
	}
	return v.framer.WriteHeaders(http2.HeadersFrameParam{
		StreamID:      stream,
		BlockFragment: requestHeaders(authority, cookie),
		EndStream:     true,
		EndHeaders:    true,
		Priority:      http2.PriorityParam{Exclusive: true, Weight: 255},
	})
}

// requestHeaders are those of Chrome 150 on Windows opening a page, in its order.
func requestHeaders(authority, cookie string) []byte {
	var block bytes.Buffer
	e := hpack.NewEncoder(&block)
	for _, h := range [...][2]string{
		{":method", "GET"},
		{":authority", authority},
		{":scheme", "https"},
		{":path", "/"},
		{"sec-ch-ua", `"Chromium";v="150", "Google Chrome";v="150", "Not.A/Brand";v="99"`},
		{"sec-ch-ua-mobile", "?0"},
		{"sec-ch-ua-platform", `"Windows"`},
		{"upgrade-insecure-requests", "1"},
		{"user-agent", "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) " +
			"Chrome/150.0.0.0 Safari/537.36"},
		{"accept", "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8," +
			"application/signed-exchange;v=b3;q=0.7"},
		{"sec-fetch-site", "none"},
		{"sec-fetch-mode", "navigate"},
		{"sec-fetch-user", "?1"},
		{"sec-fetch-dest", "document"},
		{"accept-encoding", "gzip, deflate, br, zstd"},
		{"accept-language", "en-US,en;q=0.9"},
		{"cookie", cookie},
		{"priority", "u=0, i"},
	} {
		_ = e.WriteField(hpack.HeaderField{Name: h[0], Value: h[1], Sensitive: false}) // a bytes.Buffer takes everything
	}
	return block.Bytes()
}

// readPage reads the site's answer to its end, as a browser would.
func (v *visit) readPage() error {
	size := 0
	for range maxAnswerFrames {
		f, err := v.next()
		if err != nil {
			return err
		}
		if d, ok := f.(*http2.DataFrame); ok {
			if size += len(d.Data()); size > maxFrontPage {
				return fmt.Errorf("front page has more than %d bytes", maxFrontPage)
			}
		}
		if h := f.Header(); h.StreamID == stream && ends(f) {
			return nil
		}
	}
	return fmt.Errorf("front page has more than %d frames", maxAnswerFrames)
}

// ends tells whether a frame of the answer is its last. (HEADERS that end a stream
// may be followed by CONTINUATION; those are skipped on the way to the switch.)
func ends(f http2.Frame) bool {
	switch f := f.(type) {
	case *http2.DataFrame:
		return f.StreamEnded()
	case *http2.HeadersFrame:
		return f.StreamEnded()
	}
	return false
}

// next reads one frame and answers what has to be answered.
func (v *visit) next() (http2.Frame, error) {
	f, err := v.framer.ReadFrame()
	if err != nil {
		return nil, err
	}
	switch f := f.(type) {
	case *http2.SettingsFrame:
		if !f.IsAck() {
			return f, v.framer.WriteSettingsAck()
		}
	case *http2.PingFrame:
		if !f.IsAck() {
			return f, v.framer.WritePing(true, f.Data)
		}
	case *http2.GoAwayFrame, *http2.RSTStreamFrame:
		return nil, ErrStranger
	}
	return f, nil
}

// leave asks for the switch and waits for the server's proof.
func (v *visit) leave(want []byte) error {
	ask := randomBytes(askMin, askMax)
	if err := v.framer.WriteData(stream, false, ask); err != nil {
		return err
	}
	for range maxAnswerFrames {
		f, err := v.next()
		if err != nil {
			return err
		}
		d, ok := f.(*http2.DataFrame)
		if !ok {
			continue
		}
		got := d.Data()
		if d.StreamID != stream || len(got) < len(want) || !hmac.Equal(got[:len(want)], want) {
			return ErrStranger
		}
		return nil
	}
	return ErrStranger
}

// randomBytes draws a length from low to high, and that many bytes.
func randomBytes(low, high int64) []byte {
	n, err := rand.Int(rand.Reader, big.NewInt(high-low+1))
	if err != nil {
		panic("https: crypto/rand: " + err.Error()) // it never fails
	}
	b := make([]byte, low+n.Int64())
	_, _ = rand.Read(b)
	return b
}
