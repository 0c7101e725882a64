package onion

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"cuttle/relay/wire"
)

// The targets here hand plaintext to the parsers behind the seals, or seal it with
// the right keys: a difference to what was sealed (fuzz_test.go) never gets there.

// FuzzParseIdentity: a block is a record and zeros, and no record has two blocks.
func FuzzParseIdentity(f *testing.F) {
	for _, n := range []int{0, 1, 2, wire.MaxRecordSize - 1, wire.MaxRecordSize, wire.MaxRecordSize + 1, wire.IdentitySize - 2, wire.IdentitySize, 65535} {
		f.Add(uint16(n), []byte{})
		f.Add(uint16(n), pattern(min(n, wire.IdentitySize-2), 1))
		f.Add(uint16(n), append(make([]byte, min(n, wire.IdentitySize-3)), 1))
	}
	f.Fuzz(func(t *testing.T, length uint16, content []byte) {
		block := binary.BigEndian.AppendUint16(nil, length)
		block = append(append(block, content...), make([]byte, 4096)...)[:4096]
		record, err := parseIdentity(block)
		want := length >= 1 && length <= 4000 && len(bytes.TrimRight(block[2:], "\x00")) <= int(length)
		if (err == nil) != want {
			t.Fatalf("length %d before %d bytes: %v, want a record: %v", length, len(content), err, want)
		}
		if err != nil {
			if record != nil {
				t.Fatal("there is a record beside the error")
			}
			return
		}
		if len(record) != int(length) || cap(record) != len(record) {
			t.Fatalf("record has %d bytes and room for %d, want %d", len(record), cap(record), length)
		}
		again := cat([]byte{byte(len(record) >> 8), byte(len(record))}, record)
		if !bytes.Equal(append(again, make([]byte, 4096-len(again))...), block) {
			t.Fatal("the record has another block, too")
		}
	})
}

// FuzzParseHeader: the headers are those of docs/protocol.md section 4.1, and each
// has one form.
func FuzzParseHeader(f *testing.F) {
	for _, h := range []uint32{0, 1, 0x00010000, 0x01000000, 0x01000001, 0x010004e7, 0x010004e8, 0x010004e9, 0x0100ffff, 0x01010001, 0x02000001, 0x00000400, 0xffffffff} {
		f.Add(h)
	}
	f.Fuzz(func(t *testing.T, value uint32) {
		b := binary.BigEndian.AppendUint32(nil, value)
		h, ok := parseHeader(b)
		if want := value == 0 || value >= 0x01000001 && value <= 0x010004e8; ok != want {
			t.Fatalf("%x is taken for a header: %v, want %v", b, ok, want)
		}
		if !ok {
			return
		}
		out := []byte{9, 9, 9, 9, 9}
		if putHeader(out, h); !bytes.Equal(out, append(b, 9)) {
			t.Fatalf("%x is %+v, which is written %x", b, h, out)
		}
	})
}

// FuzzPlainCells seals any plaintext with the right keys: as a cell to the first hop,
// and as one that the last hop originates. What is taken is what the document says.
func FuzzPlainCells(f *testing.F) {
	for _, header := range []uint32{0, 1, 0x01000000, 0x01000001, 0x01000005, 0x010004e8, 0x010004e9, 0x02000001, 0x01010001} {
		for n, at := range []uint16{0, 1, 4, 5, 1254, 1255, 1256, 1257, 1354, 1355} {
			f.Add(header, []byte{}, at, byte(n))
			f.Add(header, []byte{1}, at, byte(n)<<2|3)
			f.Add(header, []byte("hello"), at, byte(n)<<2)
		}
	}
	f.Fuzz(func(t *testing.T, value uint32, content []byte, at uint16, choose byte) {
		suite, n, class := 1+int(choose&1), 1+int(choose>>2)%6, choose>>1&1
		header := binary.BigEndian.AppendUint32(nil, value)
		rest := make([]byte, 1356) // zeros but for a few bytes: long inputs take the fuzzer long to shorten
		copy(rest[int(at)%len(rest):], content)
		passOn, length := value == 0, int(value&0xffff)
		here := value >= 0x01000001 && value <= 0x010004e8
		ref, c := vectorCircuit(t, suite, n, 0)

		hop, cell := c.hops[0], wire.NewCell(wire.Class(class))
		defer cell.Release()
		copy(cell.Body(), refSwap(ref[0].seal(ref[0].forward, class, 0, cat(header, rest))))
		got, err := hop.Peel(cell)
		if want := passOn || here && isAllZero(rest[length:1256]); (err == nil) != want {
			t.Fatalf("header %x of a cell to a hop: %v, want it taken: %v", header, err, want)
		}
		switch {
		case err != nil:
			if got != (Header{}) {
				t.Fatalf("header %x: %+v beside the error", header, got)
			}
		case passOn:
			if got != (Header{PassOn, 0}) || !bytes.Equal(cell.Body(), cat(rest, ref[0].fillerBytes(class, 0))) {
				t.Fatalf("header %x: %+v, or what is passed on is another cell", header, got)
			}
		case got != (Header{Here, length}) || !bytes.Equal(hop.Payload(cell), rest[:1256]):
			t.Fatalf("header %x: %+v, or the payload is another", header, got)
		}

		body := ref[n-1].wrap(0, class, header, rest)
		for i := n - 2; i >= 0; i-- {
			body = ref[i].wrap(0, class, refHeader(0, 0), body)
		}
		back := cellOf(wire.Class(class), body)
		defer back.Release()
		from, payload, err := c.path.Open(back)
		if want := here && isAllZero(rest[length:]); (err == nil) != want {
			t.Fatalf("header %x of a cell from hop %d: %v, want it taken: %v", header, n-1, err, want)
		}
		if err == nil && (from != n-1 || !bytes.Equal(payload, rest[:length]) || cap(payload) != length) {
			t.Fatalf("header %x: %d bytes from hop %d, want the %d of hop %d", header, len(payload), from, length, n-1)
		}
	})
}

func isAllZero(b []byte) bool { return len(bytes.TrimRight(b, "\x00")) == 0 }

// FuzzPlainExt seals any block with the right key as the extensions of either side.
// An offer is a list of suites without repetition, a choice one of those offered.
func FuzzPlainExt(f *testing.F) {
	for _, b := range [][]byte{{}, {1, 1, 1}, {1, 2, 1, 2}, {1, 2, 2, 1}, {1, 2, 1, 1}, {1, 3, 1, 2, 3}, {1, 62, 1}, {1, 63, 1}, {2, 1, 1}, {2, 1, 2}, {2, 1, 3}, {2, 2, 1, 2},
		{2, 0}, {1, 0}, {1, 1, 1, 2, 1, 1}, {2, 1, 1, 1, 1, 1}, {2, 1, 1, 0, 1}, {3, 0}, append(make([]byte, 63), 1), append(make([]byte, 63), 2)} {
		f.Add(b, byte(len(b)))
	}
	offers := [][]Suite{{1}, {2}, {1, 2}, {2, 1}}
	f.Fuzz(func(t *testing.T, content []byte, n byte) {
		block := append(bytes.Clone(content), make([]byte, 64)...)[:64]
		seal := func() (*symmetric, []byte) {
			s := newSymmetric("name")
			if err := s.mixKey([]byte("key")); err != nil {
				t.Fatal(err)
			}
			return s.copy(), s.encryptAndHash(nil, block)
		}
		var offer []Suite
		for _, o := range offers {
			if bytes.Equal(block, offerOf(bytesOf(o)...)) {
				offer = o
			}
		}
		s, c := seal()
		if got, err := s.openOffer(c); (err == nil) != (offer != nil) || err == nil && !slices.Equal(got, offer) {
			t.Fatalf("%x as an offer: %v, %v; want %v", block, got, err, offer)
		}
		offered, choice := offers[int(n)%len(offers)], Suite(0)
		for _, o := range offered {
			if bytes.Equal(block, choiceOf(byte(o))) {
				choice = o
			}
		}
		s, c = seal()
		if got, err := s.openChoice(c, offered); (err == nil) != (choice != 0) || err == nil && got != choice {
			t.Fatalf("%x as a choice of %v: %v, %v; want %v", block, offered, got, err, choice)
		}
	})
}

func bytesOf(suites []Suite) (out []byte) {
	for _, s := range suites {
		out = append(out, byte(s))
	}
	return out
}
