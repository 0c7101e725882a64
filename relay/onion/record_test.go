package onion

import (
	"bytes"
	"testing"

	"cuttle/relay/wire"
)

// newLink returns both ends of a link's keys, without a handshake.
func newLink(t testing.TB, suite Suite) (send *Sealer, receive *Opener, sendBack *Sealer, receiveBack *Opener) {
	t.Helper()
	there, back := secret(pattern(32, 1)), secret(pattern(32, 2))
	send, receiveBack, err := (&LinkKeys{suite, there, back}).Split()
	if err != nil {
		t.Fatal(err)
	}
	sendBack, receive, err = (&LinkKeys{suite, back, there}).Split()
	if err != nil {
		t.Fatal(err)
	}
	return send, receive, sendBack, receiveBack
}

func sealRecord(s *Sealer, p []byte) []byte {
	buf := make([]byte, wire.RecordHead+len(p)+wire.RecordTail)
	copy(buf[wire.RecordHead:], p)
	return s.Seal(buf, len(p))
}

// openRecord opens a record without changing it.
func openRecord(o *Opener, record []byte) ([]byte, error) {
	record = bytes.Clone(record)
	if _, err := o.Length(record[:wire.RecordHead]); err != nil {
		return nil, err
	}
	return o.Open(record[wire.RecordHead:])
}

func TestRecordRoundTrip(t *testing.T) {
	for _, suite := range both {
		send, receive, sendBack, receiveBack := newLink(t, suite)
		for _, n := range []int{1, 2, 1381, wire.MaxRecord} {
			want := pattern(n, byte(n))
			for _, d := range []struct {
				s *Sealer
				o *Opener
			}{{send, receive}, {sendBack, receiveBack}} {
				record := sealRecord(d.s, want)
				if len(record) != n+35 {
					t.Errorf("record of %d bytes, want %d", len(record), n+35)
				}
				if got, err := openRecord(d.o, record); err != nil || !bytes.Equal(got, want) {
					t.Errorf("%v, %d bytes: %v", suite, n, err)
				}
			}
		}
	}
}

// TestRecordReference compares records with docs/protocol.md section 5 done
// slowly, also where the key is replaced.
func TestRecordReference(t *testing.T) {
	for suite := 1; suite <= 2; suite++ {
		send, receive, _, _ := newLink(t, Suite(suite))
		key, counter := pattern(32, 1), uint64(0)
		slow := func(p []byte) []byte {
			nonce := refNonce(0, counter)
			c := refAEAD(suite, key).Seal(nil, nonce, p, nil)
			if counter++; counter%(1<<20) == 0 {
				key = refExpand(key, []byte("cuttle link rekey v1"), 32)
			}
			return c
		}
		for range 3 {
			for i := range 4 {
				p := pattern(100+i, 3)
				want := cat(slow([]byte{0, 0, byte(len(p))}), slow(p))
				got := sealRecord(send, p)
				if !bytes.Equal(got, want) {
					t.Fatalf("suite %d: record at counter %d differs from the reference", suite, counter)
				}
				if opened, err := openRecord(receive, got); err != nil || !bytes.Equal(opened, p) {
					t.Fatalf("suite %d: record at counter %d does not open: %v", suite, counter, err)
				}
			}
			// Go to two records before the next change of keys.
			counter = counter - counter%(1<<20) + 1<<20 - 4
			send.counter, receive.counter = counter, counter
		}
	}
}

func TestRecordRefused(t *testing.T) {
	for _, suite := range both {
		send, receive, _, receiveBack := newLink(t, suite)
		first, next := sealRecord(send, pattern(200, 1)), sealRecord(send, pattern(200, 2))
		if _, err := openRecord(receiveBack, first); err == nil {
			t.Error("a reflected record is accepted")
		}
		for i := range first {
			bad := bytes.Clone(first)
			bad[i] ^= 0x10
			o := *receive
			if _, err := openRecord(&o, bad); err == nil {
				t.Errorf("flipped bit in byte %d is accepted", i)
			}
			if _, err := openRecord(&o, first); err == nil {
				t.Error("there is a second try after a failure")
			}
		}
		o := *receive
		if _, err := openRecord(&o, next); err == nil {
			t.Error("a dropped record goes unnoticed")
		}
		o = *receive
		if _, err := openRecord(&o, first); err != nil {
			t.Fatal(err)
		}
		if _, err := openRecord(&o, first); err == nil {
			t.Error("a replayed record is accepted")
		}
		o = *receive
		if _, err := openRecord(&o, first[:len(first)-1]); err == nil {
			t.Error("a record without its last byte is accepted")
		}
		o = *receive
		if _, err := o.Length(bytes.Clone(first[:wire.RecordHead-1])); err == nil {
			t.Error("a cut head is accepted")
		}
		o = *receive
		if _, err := o.Open(bytes.Clone(first[wire.RecordHead:])); err == nil {
			t.Error("a body without its head is accepted")
		}
		o = *receive
		if _, err := o.Length(bytes.Clone(first[:wire.RecordHead])); err != nil {
			t.Fatal(err)
		}
		if _, err := o.Length(bytes.Clone(first[:wire.RecordHead])); err == nil {
			t.Error("two heads in a row are accepted")
		}
	}
}

// TestRecordLength checks lengths that a peer with the right keys may send.
func TestRecordLength(t *testing.T) {
	for _, n := range []int{0, wire.MaxRecord + 1, 1<<24 - 1} {
		send, receive, _, _ := newLink(t, AES256GCM)
		head := send.aead.Seal(nil, send.next(), []byte{byte(n >> 16), byte(n >> 8), byte(n)}, nil)
		if got, err := receive.Length(head); err == nil {
			t.Errorf("length %d is accepted as %d", n, got)
		}
	}
	for _, n := range []int{0, wire.MaxRecord + 1} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("Seal makes a record of %d bytes", n)
				}
			}()
			send, _, _, _ := newLink(t, AES256GCM)
			send.Seal(make([]byte, 2*wire.MaxRecord), n)
		}()
	}
}

func TestRecordAllocations(t *testing.T) {
	for _, suite := range both {
		send, receive, _, _ := newLink(t, suite)
		buf := make([]byte, wire.RecordHead+4096+wire.RecordTail)
		if got := testing.AllocsPerRun(100, func() {
			record := send.Seal(buf, 4096)
			if _, err := receive.Length(record[:wire.RecordHead]); err != nil {
				t.Fatal(err)
			}
			if _, err := receive.Open(record[wire.RecordHead:]); err != nil {
				t.Fatal(err)
			}
		}); got != 0 {
			t.Errorf("%v: %v allocations per record, want 0", suite, got)
		}
	}
}

// FuzzOpener gives a receiver anything in place of a record, after a good one.
func FuzzOpener(f *testing.F) {
	send, _, _, _ := newLink(f, AES256GCM)
	good := sealRecord(send, pattern(100, 1))
	f.Add([]byte{}, []byte{})
	f.Add(sealRecord(send, []byte{1})[:wire.RecordHead], good[wire.RecordHead:])
	f.Fuzz(func(t *testing.T, head, body []byte) {
		_, receive, _, _ := newLink(t, AES256GCM)
		if _, err := openRecord(receive, good); err != nil {
			t.Fatal(err)
		}
		if n, err := receive.Length(head); err == nil {
			if n < 1 || n > wire.MaxRecord {
				t.Fatalf("length %d", n)
			}
			if p, err := receive.Open(body); err == nil && len(p) != n {
				t.Fatalf("%d bytes for %d", len(p), n)
			}
		}
	})
}

func BenchmarkRecord(b *testing.B) {
	for _, suite := range both {
		b.Run(suite.String(), func(b *testing.B) {
			send, receive, _, _ := newLink(b, suite)
			buf := make([]byte, wire.RecordHead+wire.MaxRecord+wire.RecordTail)
			b.SetBytes(wire.MaxRecord)
			b.ReportAllocs()
			for b.Loop() {
				record := send.Seal(buf, wire.MaxRecord)
				if _, err := receive.Length(record[:wire.RecordHead]); err != nil {
					b.Fatal(err)
				}
				if _, err := receive.Open(record[wire.RecordHead:]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
