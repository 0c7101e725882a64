package netmap

import (
	"bytes"
	"encoding/base64"
	"strings"
	"testing"

	"cuttle/relay/wire"
)

func simple(t testing.TB, n byte, sequence uint64, country string) *Record {
	t.Helper()
	return sign(t, n, Record{KEM: make([]byte, wire.KEMPublicSize), Sequence: sequence, Until: 1, Country: country})
}

func line(r *Record) string { return string(AppendLine(nil, r)) }

func TestParseMap(t *testing.T) {
	old, newer, other := simple(t, 1, 1, ""), simple(t, 1, 2, "SE"), simple(t, 2, 9, "")
	text := "# a map\n\n" + line(newer) + "  " + strings.TrimSuffix(line(other), "\n") + " \r\n" + line(old) + "\t\n" + line(newer) + "# end"
	m, err := ParseMap([]byte(text))
	if err != nil || m.Len() != 2 {
		t.Fatalf("%d nodes, %v", m.Len(), err)
	}
	if r, ok := m.Lookup(testID(1)); !ok || r.Sequence != 2 || r.Country != "SE" {
		t.Errorf("the newer record does not win")
	}
	if _, ok := m.Lookup(testID(3)); ok {
		t.Error("a node that is not there is found")
	}
	records := m.Records()
	if len(records) != 2 || compareIDs(records[0].ID, records[1].ID) >= 0 {
		t.Error("Records are not in order")
	}
	if m, err := ParseMap(nil); err != nil || m.Len() != 0 {
		t.Errorf("empty map: %v", err)
	}
}

func TestParseMapErrors(t *testing.T) {
	good := simple(t, 1, 1, "")
	bad := bytes.Clone(good.Bytes())
	bad[40] ^= 1
	for name, c := range map[string]struct{ text, want string }{
		"not base64":      {"# x\n" + line(good) + "***\n", "line 3:"},
		"bad signature":   {"\n\n\n" + base64.StdEncoding.EncodeToString(bad), "line 4:"},
		"too long":        {strings.Repeat("A", 5400), "line 1:"},
		"spare bits":      {strings.TrimRight(line(good), "=\n") + "B==", "line 1:"},
		"two of a number": {line(good) + line(simple(t, 1, 1, "SE")), "line 2:"},
	} {
		if _, err := ParseMap([]byte(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
}

func TestEdge(t *testing.T) {
	a := sign(t, 1, Record{KEM: make([]byte, wire.KEMPublicSize), Until: 1, Neighbors: []wire.NodeID{testID(2), testID(3), testID(4)}})
	b := sign(t, 2, Record{KEM: make([]byte, wire.KEMPublicSize), Until: 1, Neighbors: []wire.NodeID{testID(1)}})
	c := simple(t, 3, 1, "")
	var m Map
	for _, r := range []*Record{a, b, c} {
		if err := m.Add(r); err != nil {
			t.Fatal(err)
		}
	}
	if !m.Edge(a.ID, b.ID) || !m.Edge(b.ID, a.ID) {
		t.Error("nodes that list each other are not neighbors")
	}
	if m.Edge(a.ID, c.ID) || m.Edge(c.ID, a.ID) || m.Edge(a.ID, testID(4)) || m.Edge(testID(4), a.ID) {
		t.Error("one-sided edge counts")
	}
}

func FuzzParseMap(f *testing.F) {
	f.Add([]byte("# map\n\n" + line(simple(f, 1, 1, "SE")) + line(simple(f, 2, 1, ""))))
	f.Add([]byte("AAAA\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := ParseMap(text)
		if err != nil {
			return
		}
		var b []byte
		for _, r := range m.Records() {
			b = AppendLine(b, r)
		}
		if again, err := ParseMap(b); err != nil || again.Len() != m.Len() {
			t.Fatalf("written anew: %v", err)
		}
	})
}
