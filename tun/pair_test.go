package tun

import (
	"bytes"
	"errors"
	"sync"
	"testing"
)

func buffers(n int) []Packet {
	ps := make([]Packet, n)
	for i := range ps {
		ps[i].Data = make([]byte, MaxPacket)
	}
	return ps
}

func TestPairCarriesBatches(t *testing.T) {
	a, b := Pair(1500)
	defer a.Close()
	o := Offload{Kind: TCP6, NeedsChecksum: true, HeaderLen: 60, SegmentSize: 1440, ChecksumStart: 40, ChecksumOffset: 16}
	out := []Vector{
		{Pieces: [][]byte{[]byte("one"), []byte(" "), []byte("packet")}},
		{Pieces: [][]byte{[]byte("super")}, Offload: o},
		{Pieces: [][]byte{[]byte("third")}},
	}
	if n, err := a.Write(out); n != 3 || err != nil {
		t.Fatalf("write: %d, %v; want 3", n, err)
	}
	in := buffers(2)
	if n, err := b.Read(in); n != 2 || err != nil {
		t.Fatalf("read: %d, %v; want 2", n, err)
	}
	if string(in[0].Data) != "one packet" || in[0].Offload != (Offload{}) || string(in[1].Data) != "super" || in[1].Offload != o {
		t.Errorf("read %q %+v and %q %+v", in[0].Data, in[0].Offload, in[1].Data, in[1].Offload)
	}
	if n, err := b.Read(in); n != 1 || err != nil || string(in[0].Data) != "third" {
		t.Errorf("read: %d, %v, %q; want third", n, err, in[0].Data)
	}
}

func TestPairDropsWhenFull(t *testing.T) {
	a, b := Pair(1500)
	defer a.Close()
	vs := make([]Vector, pairQueue+10)
	for i := range vs {
		vs[i].Pieces = [][]byte{{byte(i)}}
	}
	if n, err := a.Write(vs); n != pairQueue || err != nil {
		t.Errorf("write: %d, %v; want %d", n, err, pairQueue)
	}
	if n, err := b.Read(buffers(4)); n != 4 || err != nil {
		t.Errorf("read: %d, %v; want 4", n, err)
	}
}

func TestPairClose(t *testing.T) {
	a, b := Pair(1500)
	var wg sync.WaitGroup
	for _, d := range []Device{a, b} {
		wg.Go(func() {
			if _, err := d.Read(buffers(1)); !errors.Is(err, ErrClosed) {
				t.Errorf("read at close: %v, want %v", err, ErrClosed)
			}
		})
	}
	if err := errors.Join(a.Close(), b.Close(), a.Close()); err != nil {
		t.Error(err)
	}
	wg.Wait()
	if _, err := b.Write([]Vector{{Pieces: [][]byte{{1}}}}); !errors.Is(err, ErrClosed) {
		t.Errorf("write after close: %v, want %v", err, ErrClosed)
	}
}

func FuzzHeader(f *testing.F) {
	f.Add(make([]byte, headerSize))
	f.Add([]byte{1, 1, 54, 0, 180, 5, 34, 0, 16, 0})
	f.Add([]byte{2, 5, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) != headerSize {
			return
		}
		o, err := parseHeader((*[headerSize]byte)(b))
		if err != nil {
			return
		}
		o.Checked = false // is said by the kernel only
		var again [headerSize]byte
		putHeader(&again, o)
		want := bytes.Clone(b)
		want[0] &= flagNeedsChecksum
		want[1] &^= gsoECN
		if !bytes.Equal(again[:], want) {
			t.Fatalf("header %x became %x, want %x", b, again, want)
		}
	})
}

func BenchmarkPair(b *testing.B) {
	near, far := Pair(1500)
	defer near.Close()
	payload := make([]byte, 64000)
	vs := []Vector{{Pieces: [][]byte{payload[:60], payload[60:]}}}
	in := buffers(1)
	b.SetBytes(int64(len(payload)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := near.Write(vs); err != nil {
			b.Fatal(err)
		}
		if _, err := far.Read(in); err != nil {
			b.Fatal(err)
		}
	}
}
