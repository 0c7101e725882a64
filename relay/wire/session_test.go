package wire

import (
	"bytes"
	"net/netip"
	"testing"
)

func testDestination(s string) Destination { return NewDestination(netip.MustParseAddrPort(s)) }

func reencodeSession(f SessionFrame) []byte {
	switch f.Type {
	case SessionOpen:
		return AppendOpen(nil, f.Stream, f.Kind, f.Destination)
	case SessionOpened:
		return AppendOpened(nil, f.Stream)
	case SessionReset:
		return AppendReset(nil, f.Stream, f.Code)
	case SessionData:
		return AppendData(nil, f.Stream, f.Data)
	case SessionFin:
		return AppendFin(nil, f.Stream)
	case SessionWindow:
		return AppendWindow(nil, f.Stream, f.Window)
	case SessionDatagram:
		return AppendDatagram(nil, f.Stream, f.Fragment, f.Destination, f.Data)
	}
	return nil
}

// oneOfEachSession returns each frame of docs/protocol.md section 6, with its size there.
func oneOfEachSession() (frames [][]byte, sizes []int) {
	add := func(size int, b []byte) { frames, sizes = append(frames, b), append(sizes, size) }
	add(13, AppendOpen(nil, 1, KindTCP, testDestination("192.0.2.1:443")))
	add(25, AppendOpen(nil, 2, KindUDP, testDestination("[2001:db8::1]:53")))
	add(7, AppendOpen(nil, 3, KindDNS, Destination{}))
	add(5, AppendOpened(nil, 4))
	add(6, AppendReset(nil, 5, CodeForbidden))
	add(7+1, AppendData(nil, 6, fill(1, 1)))
	add(1255, AppendData(nil, 6, fill(SessionPacketSize-DataOverhead, 1)))
	add(5, AppendFin(nil, 7))
	add(9, AppendWindow(nil, 8, 1<<20))
	add(8, AppendDatagram(nil, 9, Fragment{}, Destination{}, nil))
	add(16, AppendDatagram(nil, 9, Fragment{}, testDestination("192.0.2.1:443"), fill(1, 1)))
	add(27, AppendDatagram(nil, 9, Fragment{}, testDestination("[2001:db8::1]:443"), nil))
	add(1255, AppendDatagram(nil, 0xffffffff, Fragment{}, Destination{}, fill(SessionPacketSize-DatagramOverhead, 1)))
	add(12, AppendDatagram(nil, 9, Fragment{Part: true, Last: true, Place: MaxPlace, Number: 0xffff}, Destination{}, fill(1, 1)))
	add(31, AppendDatagram(nil, 9, Fragment{Part: true, Number: 1}, testDestination("[2001:db8::1]:443"), fill(1, 1)))
	return frames, sizes
}

func TestSessionRoundTrip(t *testing.T) {
	frames, sizes := oneOfEachSession()
	for i, b := range frames {
		if len(b) != sizes[i] {
			t.Errorf("%v has %d bytes, want %d", SessionFrameType(b[0]), len(b), sizes[i])
		}
		f, rest, err := NextSessionFrame(append(bytes.Clone(b), 0xee))
		if err != nil || !bytes.Equal(rest, []byte{0xee}) {
			t.Fatalf("%v: rest %x, %v", SessionFrameType(b[0]), rest, err)
		}
		if got := reencodeSession(f); !bytes.Equal(got, b) {
			t.Errorf("%v does not survive a round trip: %x", f.Type, got)
		}
		for n := range b {
			if _, _, err := NextSessionFrame(b[:n]); err == nil {
				t.Errorf("%v cut to %d bytes is accepted", SessionFrameType(b[0]), n)
			}
		}
	}
}

func TestSessionFields(t *testing.T) {
	f, _, err := NextSessionFrame([]byte{1, 0, 0, 1, 0, 1, 4, 192, 0, 2, 7, 1, 187})
	if want := netip.MustParseAddrPort("192.0.2.7:443"); err != nil || f.Stream != 256 || f.Kind != KindTCP || f.Destination.Reveal() != want {
		t.Errorf("open: stream %d, %v, right destination %v, %v", f.Stream, f.Kind, f.Destination.Reveal() == want, err)
	}
	f, _, err = NextSessionFrame([]byte{7, 0, 0, 0, 1, 0, 0, 2, 8, 9})
	if err != nil || f.Fragment != (Fragment{}) || !f.Destination.IsZero() || !bytes.Equal(f.Data, []byte{8, 9}) {
		t.Errorf("datagram: %+v, peer %v, data %x, %v", f.Fragment, !f.Destination.IsZero(), f.Data, err)
	}
	f, _, err = NextSessionFrame([]byte{7, 0, 0, 0, 1, 3, 1, 2, 0, 4, 192, 0, 2, 7, 1, 187, 0, 1, 8})
	if want := (Fragment{Part: true, Number: 258}); err != nil || f.Fragment != want || f.Destination.Reveal() != netip.MustParseAddrPort("192.0.2.7:443") {
		t.Errorf("first fragment: %+v, %v; want %+v and the right peer", f.Fragment, err, want)
	}
	f, _, err = NextSessionFrame([]byte{7, 0, 0, 0, 1, 1, 1, 2, 0x85, 0, 1, 8})
	if want := (Fragment{Part: true, Last: true, Place: 5, Number: 258}); err != nil || f.Fragment != want {
		t.Errorf("last fragment: %+v, %v; want %+v", f.Fragment, err, want)
	}
	f, _, err = NextSessionFrame([]byte{6, 0, 0, 0, 1, 0, 0, 2, 0})
	if err != nil || f.Window != 512 {
		t.Errorf("window: %d, %v", f.Window, err)
	}
	f, _, err = NextSessionFrame([]byte{3, 0, 0, 0, 1, 2})
	if err != nil || f.Code != CodeHostUnreachable {
		t.Errorf("reset: %v, %v", f.Code, err)
	}
}

func TestSessionRefused(t *testing.T) {
	mapped := append([]byte{1, 0, 0, 0, 1, 1, 6}, netip.MustParseAddr("::ffff:192.0.2.1").AsSlice()...)
	for name, b := range map[string][]byte{
		"nothing":            {},
		"unknown type 0":     {0, 0, 0, 0, 1},
		"unknown type 8":     {8, 0, 0, 0, 1},
		"stream 0":           {2, 0, 0, 0, 0},
		"kind 0":             {1, 0, 0, 0, 1, 0, 4, 1, 2, 3, 4, 0, 80},
		"kind 4":             {1, 0, 0, 0, 1, 4, 4, 1, 2, 3, 4, 0, 80},
		"tcp to nowhere":     {1, 0, 0, 0, 1, 1, 0},
		"dns to somewhere":   {1, 0, 0, 0, 1, 3, 4, 1, 2, 3, 4, 0, 80},
		"address type 5":     {1, 0, 0, 0, 1, 1, 5, 1, 2, 3, 4, 0, 80},
		"IPv4 in IPv6":       append(mapped, 0, 80),
		"code 0":             {3, 0, 0, 0, 1, 0},
		"code 9":             {3, 0, 0, 0, 1, 9},
		"empty data":         {4, 0, 0, 0, 1, 0, 0},
		"data cut":           {4, 0, 0, 0, 1, 0, 2, 1},
		"window of 0":        {6, 0, 0, 0, 1, 0, 0, 0, 0},
		"datagram flags":     {7, 0, 0, 0, 1, 4, 0, 1, 1},
		"empty fragment":     {7, 0, 0, 0, 1, 1, 0, 0, 1, 0, 0},
		"only fragment":      {7, 0, 0, 0, 1, 1, 0, 0, 0x80, 0, 1, 9},
		"place 64":           {7, 0, 0, 0, 1, 1, 0, 0, 64, 0, 1, 9},
		"fragment cut":       {7, 0, 0, 0, 1, 1, 0, 0},
		"peer at place 1":    {7, 0, 0, 0, 1, 3, 0, 0, 1, 4, 192, 0, 2, 7, 1, 187, 0, 1, 8},
		"no peer":            {7, 0, 0, 0, 1, 2, 0, 0, 1, 8},
		"peer cut":           {7, 0, 0, 0, 1, 2, 4, 192, 0, 2, 7, 1},
		"open without kind":  {1, 0, 0, 0, 1},
		"datagram no length": {7, 0, 0, 0, 1, 0, 0},
	} {
		if f, rest, err := NextSessionFrame(b); err == nil || rest != nil || f.Type != 0 || f.Data != nil {
			t.Errorf("%s: accepted, or something returned beside the error %v", name, err)
		}
	}
}

func TestSessionAllocations(t *testing.T) {
	b := AppendDatagram(AppendData(nil, 1, fill(500, 1)), 2, Fragment{}, Destination{}, fill(500, 2))
	got := testing.AllocsPerRun(100, func() {
		for rest := b; len(rest) > 0; {
			var err error
			if _, rest, err = NextSessionFrame(rest); err != nil {
				t.Fatal(err)
			}
		}
	})
	if got != 0 {
		t.Errorf("%v allocations, want 0", got)
	}
}

// FuzzNextSessionFrame checks that whatever is accepted is just what Append writes.
func FuzzNextSessionFrame(f *testing.F) {
	frames, _ := oneOfEachSession()
	for _, b := range frames {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > SessionPacketSize {
			b = b[:SessionPacketSize]
		}
		for len(b) > 0 {
			frame, rest, err := NextSessionFrame(b)
			if err != nil {
				return
			}
			size := len(b) - len(rest)
			if !bytes.Equal(reencodeSession(frame), b[:size]) {
				t.Fatalf("%v has a second encoding", frame.Type)
			}
			b = rest
		}
	})
}
