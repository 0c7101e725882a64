package wire

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// reencode writes f, whose frame had size bytes, as Append does.
func reencode(f Frame, size int) []byte {
	switch f.Type {
	case FramePad:
		return AppendPad(nil, size-PadOverhead)
	case FrameCell, FrameDatagramCell:
		return AppendCell(nil, f.Class, f.Circuit, f.Body)
	case FrameCredit:
		return AppendCredit(nil, f.Circuit, f.Credit)
	case FrameCreate:
		return AppendCreate(nil, f.Circuit, f.Tier, f.Body)
	case FrameCreated:
		return AppendCreated(nil, f.Circuit, f.Body)
	case FrameRefuse:
		return AppendRefuse(nil, f.Circuit, f.Reason)
	case FrameClose:
		return AppendClose(nil, f.Circuit)
	case FramePing:
		return AppendPing(nil, f.Token)
	case FramePong:
		return AppendPong(nil, f.Token)
	case FrameBill:
		return AppendBill(nil, f.Body)
	}
	return nil
}

// oneOfEach returns each frame of docs/protocol.md section 5, with its size there.
func oneOfEach() (frames [][]byte, sizes []int) {
	add := func(size int, b []byte) { frames, sizes = append(frames, b), append(sizes, size) }
	add(3, AppendPad(nil, 0))
	add(3+5000, AppendPad(nil, 5000))
	add(3+MaxPad, AppendPad(nil, MaxPad))
	add(5+1376, AppendCell(nil, Reliable, 0x80000001, fill(BodySize, 1)))
	add(5+1376, AppendCell(nil, Datagram, 2, fill(BodySize, 2)))
	add(9, AppendCredit(nil, 3, 64))
	add(6+2432, AppendCreate(nil, 4, 200, fill(HopMsg1Size, 3)))
	add(5+1200, AppendCreated(nil, 5, fill(HopMsg2Size, 4)))
	add(6, AppendRefuse(nil, 6, ReasonPaymentDue))
	add(5, AppendClose(nil, 7))
	add(9, AppendPing(nil, 1<<63|8))
	add(9, AppendPong(nil, 9))
	add(3+1, AppendBill(nil, fill(1, 5)))
	add(3+4096, AppendBill(nil, fill(MaxBill, 6)))
	return frames, sizes
}

func TestFrameRoundTrip(t *testing.T) {
	frames, sizes := oneOfEach()
	for i, b := range frames {
		if len(b) != sizes[i] {
			t.Errorf("frame %v has %d bytes, want %d", FrameType(b[0]), len(b), sizes[i])
		}
		f, rest, err := NextFrame(append(bytes.Clone(b), 0xee))
		if err != nil || !bytes.Equal(rest, []byte{0xee}) {
			t.Fatalf("%v: rest %x, %v", FrameType(b[0]), rest, err)
		}
		if got := reencode(f, len(b)); !bytes.Equal(got, b) {
			t.Errorf("%v does not survive a round trip", f.Type)
		}
		for n := range b[:min(len(b), 40)] {
			if f, _, err := NextFrame(b[:n]); err == nil {
				t.Errorf("%v cut to %d bytes is read as %v", FrameType(b[0]), n, f.Type)
			}
		}
		if _, _, err := NextFrame(b[:len(b)-1]); err == nil {
			t.Errorf("%v without its last byte is accepted", FrameType(b[0]))
		}
	}
}

func TestFrameFields(t *testing.T) {
	f, _, err := NextFrame(AppendCreate(nil, 0xdeadbeef, 17, fill(HopMsg1Size, 9)))
	if err != nil || f.Circuit != 0xdeadbeef || f.Tier != 17 || !bytes.Equal(f.Body, fill(HopMsg1Size, 9)) {
		t.Errorf("create: circuit %x, tier %d, %v", f.Circuit, f.Tier, err)
	}
	f, _, err = NextFrame([]byte{3, 0, 0, 0, 1, 0, 0, 1, 0})
	if err != nil || f.Type != FrameCredit || f.Circuit != 1 || f.Credit != 256 {
		t.Errorf("credit: %+v, %v", f, err)
	}
	f, _, err = NextFrame(append([]byte{2, 0, 0, 0, 1}, fill(BodySize, 1)...))
	if err != nil || f.Class != Datagram || f.Circuit != 1 {
		t.Errorf("datagram cell: class %d, circuit %d, %v", f.Class, f.Circuit, err)
	}
	f, _, err = NextFrame([]byte{8, 1, 2, 3, 4, 5, 6, 7, 8})
	if err != nil || f.Token != 0x0102030405060708 {
		t.Errorf("ping: token %x, %v", f.Token, err)
	}
}

func TestFrameSequence(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 5))
	frames, _ := oneOfEach()
	var b []byte
	var want []FrameType
	for range 300 {
		f := frames[rng.IntN(len(frames))]
		b, want = append(b, f...), append(want, FrameType(f[0]))
	}
	for i, w := range want {
		f, rest, err := NextFrame(b)
		if err != nil || f.Type != w {
			t.Fatalf("frame %d: %v, %v, want %v", i, f.Type, err, w)
		}
		b = rest
	}
	if len(b) != 0 {
		t.Errorf("%d bytes left", len(b))
	}
}

func TestFrameRefused(t *testing.T) {
	dirtyPad := AppendPad(nil, 100)
	dirtyPad[len(dirtyPad)-1] = 1
	for name, b := range map[string][]byte{
		"nothing":         {},
		"unknown type":    append([]byte{11}, make([]byte, 100)...),
		"pad not zero":    dirtyPad,
		"credit of 0":     {3, 0, 0, 0, 1, 0, 0, 0, 0},
		"reason 0":        {6, 0, 0, 0, 1, 0},
		"reason 7":        {6, 0, 0, 0, 1, 7},
		"empty bill":      {10, 0, 0},
		"bill too long":   append([]byte{10, 0x10, 0x01}, make([]byte, 4097)...),
		"bill cut":        {10, 0, 2, 1},
		"cell one short":  append([]byte{1}, make([]byte, 4+BodySize-1)...),
		"create cut":      append([]byte{4}, make([]byte, 5+HopMsg1Size-1)...),
		"ping of 7 bytes": append([]byte{8}, make([]byte, 7)...),
	} {
		if f, rest, err := NextFrame(b); err == nil || rest != nil || f.Type != 0 || f.Body != nil {
			t.Errorf("%s: accepted as %v, or something returned beside the error %v", name, f.Type, err)
		}
	}
}

func TestAppendPanics(t *testing.T) {
	for name, f := range map[string]func(){
		"cell body":  func() { AppendCell(nil, Reliable, 1, make([]byte, BodySize-1)) },
		"msg1":       func() { AppendCreate(nil, 1, 0, make([]byte, HopMsg1Size+1)) },
		"msg2":       func() { AppendCreated(nil, 1, nil) },
		"bill empty": func() { AppendBill(nil, nil) },
		"bill long":  func() { AppendBill(nil, make([]byte, MaxBill+1)) },
		"pad":        func() { AppendPad(nil, MaxPad+1) },
		"data empty": func() { AppendData(nil, 1, nil) },
		"data long":  func() { AppendData(nil, 1, make([]byte, SessionPacketSize)) },
		"fragment":   func() { AppendDatagram(nil, 1, Fragment{Part: true}, Destination{}, nil) },
		"place":      func() { AppendDatagram(nil, 1, Fragment{Place: 1}, Destination{}, []byte{1}) },
		"late peer": func() {
			AppendDatagram(nil, 1, Fragment{Part: true, Place: 1}, testDestination("192.0.2.1:1"), []byte{1})
		},
		"extend":      func() { AppendExtend(nil, NodeID{}, 0, nil) },
		"extended":    func() { AppendExtended(nil, nil) },
		"dns with":    func() { AppendOpen(nil, 1, KindDNS, testDestination("192.0.2.1:1")) },
		"tcp without": func() { AppendOpen(nil, 1, KindTCP, Destination{}) },
		"put nothing": func() { PutFragment(make([]byte, PayloadSize), nil) },
		"put long":    func() { PutFragment(make([]byte, PayloadSize), make([]byte, MaxControl+1)) },
		"put nowhere": func() { PutFragment(make([]byte, FragmentOverhead), []byte{1}) },
	} {
		mustPanic(t, name, f)
	}
}

func TestNames(t *testing.T) {
	for got, want := range map[string]string{
		FrameBill.String():              "bill",
		FrameType(11).String():          "frame 11",
		ReasonProtocol.String():         "protocol",
		Reason(0).String():              "reason 0",
		CodeEnded.String():              "ended by the session",
		Code(9).String():                "code 9",
		SessionDatagram.String():        "datagram",
		SessionFrameType(0).String():    "session frame 0",
		SessionFrameType(8).String():    "session frame 8",
		KindTCP.String():                "tcp",
		KindUDP.String():                "udp",
		KindDNS.String():                "dns",
		Kind(0).String():                "kind 0",
		ReasonNotConnected.String():     "next hop not connected",
		CodeNetworkUnreachable.String(): "network unreachable",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestFrameAllocations(t *testing.T) {
	b := AppendCredit(AppendCell(nil, Reliable, 1, fill(BodySize, 1)), 1, 5)
	out := make([]byte, 0, len(b))
	got := testing.AllocsPerRun(100, func() {
		for rest := b; len(rest) > 0; {
			var err error
			if _, rest, err = NextFrame(rest); err != nil {
				t.Fatal(err)
			}
		}
		out = AppendCredit(AppendCell(out[:0], Reliable, 1, b[5:5+BodySize]), 1, 5)
	})
	if got != 0 {
		t.Errorf("%v allocations, want 0", got)
	}
}

// FuzzNextFrame checks that whatever is accepted is just what Append writes.
func FuzzNextFrame(f *testing.F) {
	frames, _ := oneOfEach()
	for _, b := range frames {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for len(b) > 0 {
			frame, rest, err := NextFrame(b)
			if err != nil {
				return
			}
			size := len(b) - len(rest)
			if !bytes.Equal(reencode(frame, size), b[:size]) {
				t.Fatalf("%v frame has a second encoding", frame.Type)
			}
			b = rest
		}
	})
}

func BenchmarkNextFrameCell(b *testing.B) {
	frame := AppendCell(nil, Reliable, 1, fill(BodySize, 1))
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := NextFrame(frame); err != nil {
			b.Fatal(err)
		}
	}
}
