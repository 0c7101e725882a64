package https

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"cuttle/obfs"
	"cuttle/relay/wire"
)

// ask is a frame that asks for the switch, with that much padding.
func ask(size int) string {
	return string([]byte{0, byte(size >> 8), byte(size), 0, 0, 0, 0, 0, stream}) + strings.Repeat("r", size)
}

// FuzzUpgrade gives a server what a visitor sends after the TLS handshake: behind a
// request with the right proof, or from the first byte on. Nobody without a proof gets
// a tunnel; with one, it begins behind the first frame that asks for it, to the byte.
func FuzzUpgrade(f *testing.F) {
	const settings = http2.ClientPreface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00"
	f.Add(true, ask(100)+"the link's first message")
	f.Add(true, ask(0)+"x")
	f.Add(true, ask(1<<14)+ask(3))
	f.Add(true, ask(1<<14+1)+"too large")
	f.Add(true, ask(100)[:50])
	f.Add(true, ask(100)[:5])
	f.Add(true, "\x00\x00\x08\x06\x00\x00\x00\x00\x0001234567"+ask(60)+"behind a ping")
	f.Add(true, "\x00\x00\x00\x04\x01\x00\x00\x00\x00\x00\x00\x04\x08\x00\x00\x00\x00\x00\x00\x01\x00\x00"+ask(61)+"as a browser")
	f.Add(true, "\x00\x00\x02\x00\x01\x00\x00\x00\x01ab"+ask(60))                         // data that ends the stream
	f.Add(true, "\x00\x00\x02\x00\x00\x00\x00\x00\x03ab"+ask(60))                         // of another stream
	f.Add(true, "\x00\x00\x01\x01\x05\x00\x00\x00\x03\x82"+ask(60))                       // half a request
	f.Add(true, "\x00\x00\x04\x01\x05\x00\x00\x00\x03\x82\x87\x84\x41"+ask(60)+"another") // a request that does not parse
	f.Add(true, "\x00\x00\x08\x07\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"+ask(60))
	f.Add(true, "")
	f.Add(false, settings+ask(60)+"no request")
	f.Add(false, settings+"\x00\x00\x04\x01\x05\x00\x00\x00\x01\x82\x87\x84\x86"+ask(60)+"no proof")
	f.Add(false, settings)
	f.Add(false, "GET / HTTP/1.1\r\n\r\n")
	f.Add(false, ask(60))
	node := wire.NodeID{7}
	pages, err := newSite(obfs.Options{Node: node})
	if err != nil {
		f.Fatal(err)
	}
	certificate, err := newCertificates(obfs.Options{Node: node})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, known bool, sent string) {
		if len(sent) > 1<<16 {
			return
		}
		synctest.Test(t, func(t *testing.T) {
			v := newVisitor(t, node, pages, certificate)
			if known {
				v.introduce(t, node)
			}
			v.say(sent)
			synctest.Wait()
			_ = v.conn.NetConn().Close() // the server then reads to the end of what was sent
			v.end(t, known, sent)
		})
	})
}

// visitor is a client of serveH2 with TLS and no more of ours than the request.
type visitor struct {
	conn   *tls.Conn
	l      *listener
	tunnel chan []byte   // what one that was accepted read
	served chan struct{} // closed when the server is done with the connection
}

func newVisitor(t *testing.T, node wire.NodeID, pages *site, certificate *certificates) *visitor {
	v := &visitor{tunnel: make(chan []byte, 1), served: make(chan struct{})}
	v.l = &listener{site: pages, gate: newGate(node, time.Now), tunnels: make(chan *tunnel), closed: make(chan struct{}),
		h2: &http2.Server{IdleTimeout: visitTimeout, WriteByteTimeout: visitTimeout}} //nolint:staticcheck // see listener.h2
	srv := &http.Server{WriteTimeout: visitTimeout, IdleTimeout: visitTimeout, ErrorLog: log.New(io.Discard, "", 0)}
	if err := http2.ConfigureServer(srv, v.l.h2); err != nil { //nolint:staticcheck // so that no pool outlives the bubble
		t.Fatal(err)
	}
	here, there := net.Pipe()
	curves := []tls.CurveID{tls.X25519} // the fastest
	own := func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return certificate.current, nil }
	far := tls.Server(&rawConn{Conn: there}, &tls.Config{GetCertificate: own, CurvePreferences: curves, NextProtos: []string{http2.NextProtoTLS}})
	go func() { // ends with the connection
		defer close(v.served)
		defer far.Close() //nolint:errcheck // as the web server does
		if far.Handshake() == nil {
			v.l.serveH2(srv, far, v.l)
		}
	}()
	go func() { // ends when the listener closes
		c, err := v.l.Accept()
		if err != nil {
			return
		}
		got, _ := io.ReadAll(c) // the visitor's end closes without a close_notify
		_ = c.Close()
		v.tunnel <- got
	}()
	v.conn = tls.Client(here, &tls.Config{InsecureSkipVerify: true, CurvePreferences: curves, NextProtos: []string{http2.NextProtoTLS}})
	if err := v.conn.Handshake(); err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.Copy(io.Discard, v.conn) }() // ends with the connection
	return v
}

// introduce sends the request of a client that knows the node's address.
func (v *visitor) introduce(t *testing.T, node wire.NodeID) {
	state := v.conn.ConnectionState()
	b, err := bind(&state)
	if err != nil {
		t.Fatal(err)
	}
	p := newProver(node)
	me := visit{conn: v.conn, framer: http2.NewFramer(v.conn, nil)}
	if err := me.request("www.example.org", p.cookie+"="+p.value(newClaim(b, time.Now()))); err != nil {
		t.Fatal(err)
	}
	synctest.Wait() // the page has come
}

// say sends bytes; the server may have hung up.
func (v *visitor) say(text string) { _, _ = v.conn.Write([]byte(text)) }

// end wants the server to be done, and the tunnel that is due and no other.
func (v *visitor) end(t *testing.T, known bool, sent string) {
	<-v.served
	close(v.l.closed)
	synctest.Wait()
	rest, first := behindAsk([]byte(sent))
	select {
	case got := <-v.tunnel:
		if !known || rest < 0 || string(got) != sent[rest:] {
			t.Fatalf("known %v: a tunnel began with %q behind %q", known, got, sent)
		}
	default:
		if known && first {
			t.Fatalf("no tunnel behind %q", sent)
		}
	}
}

// behindAsk returns where the first frame that asks for the switch ends in what was
// sent, -1 if there is none, and whether it is the first of all frames.
func behindAsk(sent []byte) (end int, first bool) {
	for at := 0; len(sent)-at >= frameHead; at = end {
		head := sent[at : at+frameHead]
		size := int(head[0])<<16 | int(head[1])<<8 | int(head[2])
		if end = at + frameHead + size; end > len(sent) {
			break
		}
		if head[3] == 0 && head[4] == 0 && binary.BigEndian.Uint32(head[5:]) == stream && size <= maxSwitchPayload {
			return end, at == 0
		}
	}
	return -1, false
}

// FuzzVisit gives a client what a web site sends after the TLS handshake. It takes it
// for the node only by its proof, and then has read to the end of that frame.
func FuzzVisit(f *testing.F) {
	p := newProver(wire.NodeID{7})
	proof := p.answer(claim{slot: 9, nonce: nonce{1}, binding: binding{2}})
	frame := func(write func(*http2.Framer) error) string {
		var b bytes.Buffer
		if err := write(http2.NewFramer(&b, nil)); err != nil {
			f.Fatal(err)
		}
		return b.String()
	}
	settings := frame(func(fr *http2.Framer) error {
		return errors.Join(fr.WriteSettings(), fr.WriteSettingsAck(), fr.WriteWindowUpdate(0, 9))
	})
	head := frame(func(fr *http2.Framer) error {
		return fr.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: []byte{0x88}, EndHeaders: true})
	})
	data := func(id uint32, end bool, b string) string {
		return frame(func(fr *http2.Framer) error { return fr.WriteData(id, end, []byte(b)) })
	}
	page := settings + head + data(stream, false, "<html>") + data(stream, true, "</html>")
	empty := frame(func(fr *http2.Framer) error {
		return errors.Join(fr.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: []byte{0x88}, EndStream: true}),
			fr.WriteContinuation(stream, true, nil))
	})
	answer := data(stream, false, string(proof)+"padding")
	ping := frame(func(fr *http2.Framer) error { return fr.WritePing(false, [8]byte{1}) })
	for _, s := range []string{
		page + answer + "the link's", settings + empty + answer, page + ping + settings + answer, page + data(stream, true, string(proof)),
		page + data(3, false, string(proof)), page + data(stream, false, "wrong"), page + data(stream, false, string(proof[1:])+"x"), page, page + answer[:30],
		settings + head + frame(func(fr *http2.Framer) error { return fr.WriteRSTStream(stream, http2.ErrCodeCancel) }), answer,
		page + frame(func(fr *http2.Framer) error { return fr.WriteGoAway(1, http2.ErrCodeNo, nil) }), settings[:5], "HTTP/1.1 400 Bad Request\r\n\r\n",
		head + frame(func(fr *http2.Framer) error { return fr.WriteDataPadded(stream, true, []byte("page"), make([]byte, 9)) }) + answer,
		page + frame(func(fr *http2.Framer) error { return fr.WriteDataPadded(stream, false, proof, make([]byte, 9)) }),
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, sent []byte) {
		c := &replies{Reader: bytes.NewReader(sent)}
		v := visit{conn: c, framer: http2.NewFramer(c, c)}
		v.framer.SetMaxReadFrameSize(maxSwitchPayload)
		err := errors.Join(v.request("www.example.org", "sid=x"), v.readPage())
		before := len(sent) - c.Len()
		if err == nil {
			err = v.leave(proof)
		}
		read := sent[before : len(sent)-c.Len()]
		if last := lastFrame(read); err == nil && (last == nil || last[3] != byte(http2.FrameData) || !bytes.Contains(last, proof)) {
			t.Fatalf("took %q behind the page for the node", read)
		}
		if c.wrote > 4096+len(sent) {
			t.Fatalf("%d bytes were answered with %d", len(sent), c.wrote)
		}
	})
}

// lastFrame is the last of the whole frames that b consists of, nil if it does not.
func lastFrame(b []byte) (last []byte) {
	for len(b) > 0 {
		if len(b) < frameHead {
			return nil
		}
		size := frameHead + (int(b[0])<<16 | int(b[1])<<8 | int(b[2]))
		if size > len(b) {
			return nil
		}
		last, b = b[:size], b[size:]
	}
	return last
}

// replies is a connection whose far end has said everything.
type replies struct {
	net.Conn
	*bytes.Reader
	wrote int
}

func (r *replies) Read(p []byte) (int, error)  { return r.Reader.Read(p) }
func (r *replies) Write(p []byte) (int, error) { r.wrote += len(p); return len(p), nil }
