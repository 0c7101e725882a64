package stack

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"cuttle/tun"
)

// request makes an echo request of a program.
func request(dst netip.Addr, id, sequence uint16, data []byte) []byte {
	src := program4
	if dst.Is6() {
		src = program6
	}
	return echoPacket(src, netip.AddrPortFrom(dst, id), false, sequence, data)
}

// TestEcho: requests reach the dialer's far end as they are, replies and errors
// come back to the program that asked, and nothing is answered without the dialer.
func TestEcho(t *testing.T) {
	d := &direct{echo: func(b []byte) []byte {
		switch binary.BigEndian.Uint16(b[1:]) {
		case 2, 3, 5, 9: // the far network's answer
			return append([]byte{b[2]}, b[1:3]...)
		case 100: // none
			return nil
		}
		return b
	}}
	p := newPrograms(t, d, Config{})
	data := bytes.Repeat([]byte("ping"), 300)
	tests := []struct {
		sequence     uint16
		want4, want6 [2]byte
	}{
		{1, [2]byte{0, 0}, [2]byte{129, 0}},
		{100, [2]byte{}, [2]byte{}}, // silence; the next packet is the next request's
		{2, [2]byte{3, 1}, [2]byte{1, 3}},
		{3, [2]byte{3, 0}, [2]byte{1, 0}},
		{5, [2]byte{3, 13}, [2]byte{1, 1}},
		{9, [2]byte{11, 0}, [2]byte{3, 0}},
		{65535, [2]byte{0, 0}, [2]byte{129, 0}},
	}
	for _, dst := range []netip.Addr{far4, far6} {
		for _, tt := range tests {
			sent := request(dst, 7, tt.sequence, data)
			write(t, p.device, sent)
			if tt.want4 == tt.want6 {
				continue
			}
			m := p.expectICMP(t, tt.want4, tt.want6)
			head := len(sent) - echoHeader - len(data)
			if tt.want4 == [2]byte{0, 0} {
				if !bytes.Equal(m[4:], sent[head+4:]) {
					t.Errorf("reply %d: identifier, sequence or data differ from the request's", tt.sequence)
				}
			} else if quoted := m[8+head:]; !bytes.Equal(quoted[4:8], sent[head+4:head+8]) || quoted[0] != sent[head] {
				t.Errorf("error %v quotes %x, want the header %x", tt.want4, quoted, sent[head:head+8])
			}
		}
	}
	if n := p.stack.echo.len(); n != 2 {
		t.Errorf("%d echo flows, want one for each destination", n)
	}
}

// TestEchoRefused: without a way onward programs hear so at once, and damaged
// requests go nowhere.
func TestEchoRefused(t *testing.T) {
	d := &direct{}
	p := newPrograms(t, d, Config{})
	for _, dst := range []netip.Addr{far4, far6} {
		damaged := request(dst, 7, 1, []byte("data"))
		damaged[len(damaged)-1]++
		write(t, p.device, damaged)
		write(t, p.device, request(dst, 7, 9, []byte("data")))
		m := p.expectICMP(t, [2]byte{3, 13}, [2]byte{1, 1})
		if sequence := binary.BigEndian.Uint16(m[len(m)-2:]); sequence != 9 {
			t.Errorf("request %d was refused, want 9", sequence)
		}
	}
	if !eventually(20*time.Second, func() bool { return p.stack.echo.len() == 0 }) {
		t.Error("refused echo flows are left")
	}
}

// TestEchoBounds: no source, and all sources together, hold more flows than they
// may.
func TestEchoBounds(t *testing.T) {
	p := newPrograms(t, &direct{echo: func([]byte) []byte { return nil }}, Config{})
	for id := range uint16(3 * maxEchoSource) {
		write(t, p.device, request(far4, id, 1, nil))
	}
	last := netip.AddrPortFrom(program4, 3*maxEchoSource-1)
	if !eventually(20*time.Second, func() bool {
		p.stack.echo.mu.Lock()
		defer p.stack.echo.mu.Unlock()
		return p.stack.echo.flows[udpKey{src: last, dst: netip.AddrPortFrom(far4, 0)}] != nil
	}) {
		t.Fatal("the last flow was not made")
	}
	if n := p.stack.echo.len(); n != maxEchoSource {
		t.Errorf("%d echo flows of one source, want %d", n, maxEchoSource)
	}
}

func write(t *testing.T, d tun.Device, packet []byte) {
	t.Helper()
	if n, err := d.Write([]tun.Vector{{Pieces: [][]byte{packet}}}); err != nil || n != 1 {
		t.Fatalf("write packet: %d, %v", n, err)
	}
}
