package netmap

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"cuttle/relay/wire"
)

var now = time.Unix(1500, 0)

// spec describes one node of a test map by small numbers.
type spec struct {
	n         byte
	roles     Roles
	country   string
	relay     wire.Tier
	exit      wire.Tier
	families  Families
	expired   bool
	neighbors []byte
}

func buildMap(t testing.TB, specs []spec) *Map {
	t.Helper()
	m := &Map{}
	for _, s := range specs {
		r := Record{KEM: make([]byte, wire.KEMPublicSize), From: 1000, Until: 2000, Roles: s.roles, Country: s.country,
			RelayPrice: s.relay, ExitPrice: s.exit, Families: s.families}
		if s.expired {
			r.Until = 1500
		}
		for _, n := range s.neighbors {
			r.Neighbors = append(r.Neighbors, testID(n))
		}
		if err := m.Add(sign(t, s.n, r)); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

func ids(ns ...byte) (out []wire.NodeID) {
	for _, n := range ns {
		out = append(out, testID(n))
	}
	return out
}

// ladder is a map of two guards (1, 2), a middle (3), two exits (4 in SE, 5 in
// DE) and an exit-only node 6 that hangs on 4 alone; 7 lists all, none list it.
func ladder(t testing.TB) *Map {
	return buildMap(t, []spec{
		{n: 1, roles: Relay, relay: 1, neighbors: []byte{3, 4}},
		{n: 2, roles: Relay, relay: 5, neighbors: []byte{3}},
		{n: 3, roles: Relay, relay: 2, neighbors: []byte{1, 2, 4, 5}},
		{n: 4, roles: Relay | Exit, relay: 1, exit: 10, country: "SE", families: IPv4, neighbors: []byte{1, 3, 6}},
		{n: 5, roles: Relay | Exit, relay: 1, exit: 20, country: "DE", families: IPv4 | IPv6, neighbors: []byte{3}},
		{n: 6, roles: Exit, exit: 1, country: "FR", families: IPv4, neighbors: []byte{4}},
		{n: 7, roles: Relay | Exit, country: "NO", families: IPv4, neighbors: []byte{1, 2, 3, 4, 5, 6}},
		{n: 8, roles: Relay | Exit, country: "FI", expired: true, neighbors: []byte{1, 2}},
		{n: 9, roles: 0, neighbors: []byte{3, 4}},
	})
}

var numbers = func() map[wire.NodeID]byte {
	out := map[wire.NodeID]byte{}
	for n := byte(1); n < 64; n++ {
		out[testID(n)] = n
	}
	return out
}()

func name(path []*Record) (s string) {
	for _, r := range path {
		s += fmt.Sprintf("%d ", numbers[r.ID])
	}
	return s
}

func TestChoose(t *testing.T) {
	m := ladder(t)
	base := Constraints{Now: now, Hops: 3, Guards: ids(1, 2), MaxTier: 255}
	for label, c := range map[string]struct {
		change func(*Constraints)
		want   []string // all paths that may come out
		err    error
	}{
		"three hops":         {func(c *Constraints) {}, []string{"1 3 4 ", "1 3 5 ", "2 3 4 ", "2 3 5 ", "1 4 6 "}, nil},
		"two hops":           {func(c *Constraints) { c.Hops = 2 }, []string{"1 4 "}, nil},
		"four hops":          {func(c *Constraints) { c.Hops = 4 }, []string{"1 3 4 6 ", "2 3 4 6 ", "1 4 3 5 ", "2 3 1 4 "}, nil},
		"five hops":          {func(c *Constraints) { c.Hops = 5 }, []string{"2 3 1 4 6 "}, nil},
		"one hop":            {func(c *Constraints) { c.Hops, c.Guards = 1, ids(1, 6) }, []string{"6 "}, nil},
		"country":            {func(c *Constraints) { c.Exits = []ExitWish{{Country: "DE"}} }, []string{"1 3 5 ", "2 3 5 "}, nil},
		"key":                {func(c *Constraints) { c.Exits = []ExitWish{{ID: testID(6)}} }, []string{"1 4 6 "}, nil},
		"key in country":     {func(c *Constraints) { c.Exits = []ExitWish{{ID: testID(6), Country: "SE"}} }, nil, ErrNoExit},
		"fallback":           {func(c *Constraints) { c.Exits = []ExitWish{{Country: "US"}, {Country: "NO"}, {Country: "SE"}, {}} }, []string{"1 3 4 ", "2 3 4 "}, nil},
		"fallback to any":    {func(c *Constraints) { c.Exits = []ExitWish{{Country: "NO"}, {}} }, []string{"1 3 4 ", "1 3 5 ", "2 3 4 ", "2 3 5 ", "1 4 6 "}, nil},
		"families":           {func(c *Constraints) { c.Families = IPv4 | IPv6 }, []string{"1 3 5 ", "2 3 5 "}, nil},
		"avoid":              {func(c *Constraints) { c.Avoid = ids(1, 5) }, []string{"2 3 4 "}, nil},
		"self":               {func(c *Constraints) { c.Self = testID(4) }, []string{"1 3 5 ", "2 3 5 "}, nil},
		"cheap":              {func(c *Constraints) { c.MaxTier = 13 }, []string{"1 3 4 ", "1 4 6 "}, nil},
		"just enough":        {func(c *Constraints) { c.MaxTier = 3 }, []string{"1 4 6 "}, nil},
		"wish by price":      {func(c *Constraints) { c.MaxTier, c.Exits = 13, []ExitWish{{Country: "DE"}, {Country: "SE"}} }, []string{"1 3 4 "}, nil},
		"too cheap":          {func(c *Constraints) { c.MaxTier = 2 }, nil, ErrPrice},
		"free":               {func(c *Constraints) { c.MaxTier = 0 }, nil, ErrPrice},
		"no hops":            {func(c *Constraints) { c.Hops = 0 }, nil, ErrHops},
		"seven hops":         {func(c *Constraints) { c.Hops = 7 }, nil, ErrHops},
		"six hops":           {func(c *Constraints) { c.Hops = 6 }, nil, ErrNoRoute},
		"no guard":           {func(c *Constraints) { c.Guards = nil }, nil, ErrNoGuard},
		"unknown guard":      {func(c *Constraints) { c.Guards = ids(60) }, nil, ErrNoGuard},
		"expired guard":      {func(c *Constraints) { c.Guards = ids(8) }, nil, ErrNoGuard},
		"guard only exits":   {func(c *Constraints) { c.Guards = ids(6) }, nil, ErrNoGuard},
		"guard avoided":      {func(c *Constraints) { c.Guards, c.Avoid = ids(1), ids(1) }, nil, ErrNoGuard},
		"no such exit":       {func(c *Constraints) { c.Exits = []ExitWish{{Country: "US"}, {ID: testID(1)}} }, nil, ErrNoExit},
		"exit avoided":       {func(c *Constraints) { c.Exits, c.Avoid = []ExitWish{{Country: "SE"}}, ids(4) }, nil, ErrNoExit},
		"exit without IPv6":  {func(c *Constraints) { c.Exits, c.Families = []ExitWish{{Country: "SE"}}, IPv6 }, nil, ErrNoExit},
		"expired exit":       {func(c *Constraints) { c.Exits = []ExitWish{{Country: "FI"}} }, nil, ErrNoExit},
		"too few":            {func(c *Constraints) { c.Hops, c.Avoid = 4, ids(1, 3, 5, 6, 7) }, nil, ErrTooFewRelays},
		"one-sided edge":     {func(c *Constraints) { c.Exits = []ExitWish{{Country: "NO"}} }, nil, ErrNoRoute},
		"all expired":        {func(c *Constraints) { c.Now = time.Unix(3000, 0) }, nil, ErrNoGuard},
		"one hop, not exit":  {func(c *Constraints) { c.Hops = 1 }, nil, ErrNoRoute},
		"two hops elsewhere": {func(c *Constraints) { c.Hops, c.Guards = 2, ids(2) }, nil, ErrNoRoute},
	} {
		t.Run(label, func(t *testing.T) {
			cons := base
			c.change(&cons)
			rng := rand.New(rand.NewPCG(1, 2))
			got := map[string]int{}
			const draws = 500
			for range draws {
				path, err := Choose(rng, m, cons)
				if !errors.Is(err, c.err) || (err == nil) != (path != nil) {
					t.Fatalf("%s, %v, want %v", name(path), err, c.err)
				}
				if err != nil {
					return
				}
				if tiers := Tiers(path); tiers[0] > cons.MaxTier {
					t.Fatalf("path %scosts %v", name(path), tiers)
				}
				got[name(path)]++
			}
			for p, n := range got {
				// Five standard deviations around an equal share.
				share := float64(draws) / float64(len(c.want))
				if !slices.Contains(c.want, p) || (float64(n)-share)*(float64(n)-share) > 25*share {
					t.Errorf("path %scame %d times of %d, want one of %v equally often", p, n, draws, c.want)
				}
			}
			if len(got) != len(c.want) {
				t.Errorf("paths %v, want %v", got, c.want)
			}
		})
	}
}

func TestTiers(t *testing.T) {
	m := ladder(t)
	var path []*Record
	for _, id := range ids(2, 3, 1, 4, 6) {
		r, _ := m.Lookup(id)
		path = append(path, r)
	}
	if got, want := Tiers(path), []wire.Tier{10, 5, 3, 2, 1}; !slices.Equal(got, want) {
		t.Errorf("Tiers = %v, want %v", got, want)
	}
	if got := Tiers(path[:1]); !slices.Equal(got, []wire.Tier{0}) {
		t.Errorf("Tiers of one hop = %v, want its exit price 0", got)
	}
	if got := Tiers(nil); len(got) != 0 {
		t.Errorf("Tiers of nothing = %v", got)
	}
	defer func() {
		if recover() == nil {
			t.Error("tiers above 255 are given out")
		}
	}()
	dear := *path[0]
	dear.RelayPrice = 255
	Tiers([]*Record{&dear, path[3]})
}

// paths lists by brute force what Choose may return.
func paths(m *Map, c Constraints) (out [][]*Record) {
	records := m.Records()
	var grow func(path []*Record)
	grow = func(path []*Record) {
		if len(path) == c.Hops {
			sum := int(path[len(path)-1].ExitPrice)
			for _, r := range path[:len(path)-1] {
				sum += int(r.RelayPrice)
			}
			if path[len(path)-1].Roles&Exit != 0 && sum <= int(c.MaxTier) {
				out = append(out, slices.Clone(path))
			}
			return
		}
		for _, r := range records {
			first := len(path) == 0 && slices.Contains(c.Guards, r.ID)
			later := len(path) > 0 && path[len(path)-1].Roles&Relay != 0 && m.Edge(path[len(path)-1].ID, r.ID)
			if (first || later) && !slices.Contains(path, r) {
				grow(append(path, r))
			}
		}
	}
	grow(nil)
	return out
}

// TestChooseRandomMaps compares Choose with brute force on maps of chance.
func TestChooseRandomMaps(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 9))
	found, none := 0, 0
	for range 100 {
		n := byte(2 + rng.IntN(7))
		specs := make([]spec, n)
		for i := range specs {
			specs[i] = spec{n: byte(i + 1), roles: Roles(rng.IntN(4)), relay: wire.Tier(rng.IntN(4)), exit: wire.Tier(rng.IntN(10))}
			for j := range n {
				if int(j) != i && rng.IntN(3) > 0 {
					specs[i].neighbors = append(specs[i].neighbors, j+1)
				}
			}
		}
		m := buildMap(t, specs)
		c := Constraints{Now: now, Hops: 1 + rng.IntN(6), Guards: ids(1, 2), MaxTier: wire.Tier(rng.IntN(25))}
		want := paths(m, c)
		got, err := Choose(rng, m, c)
		if (err == nil) != (len(want) > 0) {
			t.Fatalf("%d paths by brute force, Choose says %v (%+v)", len(want), err, specs)
		}
		if err != nil {
			none++
			dear := c
			dear.MaxTier = 255
			if (len(paths(m, dear)) > 0) != errors.Is(err, ErrPrice) {
				t.Errorf("wrong reason: %v", err)
			}
			continue
		}
		found++
		if !slices.ContainsFunc(want, func(p []*Record) bool { return slices.Equal(p, got) }) {
			t.Errorf("path %sis none of those found by brute force", name(got))
		}
	}
	if found < 20 || none < 20 {
		t.Errorf("%d maps with a path, %d without: not much of a test", found, none)
	}
}

// TestChooseRarePath makes paths so rare among walks that drawing them fails: a
// clique of cheap-looking walks back and forth, and one path through.
func TestChooseRarePath(t *testing.T) {
	// 1 is connected to a crowd; only 1-2-3-4-5-6 in a row is a path of six.
	specs := []spec{
		{n: 1, roles: Relay | Exit, neighbors: []byte{2}}, {n: 2, roles: Relay, neighbors: []byte{1, 3}},
		{n: 3, roles: Relay, neighbors: []byte{2, 4}}, {n: 4, roles: Relay, neighbors: []byte{3, 5}},
		{n: 5, roles: Relay, neighbors: []byte{4, 6}}, {n: 6, roles: Relay | Exit, exit: 7, neighbors: []byte{5}},
	}
	for n := byte(10); n < 60; n++ { // each a dead end beside node 1, and an exit
		specs[0].neighbors = append(specs[0].neighbors, n)
		specs = append(specs, spec{n: n, roles: Relay | Exit, neighbors: []byte{1}})
	}
	m := buildMap(t, specs)
	c := Constraints{Now: now, Hops: 6, Guards: ids(1), MaxTier: 7}
	path, err := Choose(rand.New(rand.NewPCG(1, 1)), m, c)
	if err != nil || name(path) != "1 2 3 4 5 6 " {
		t.Errorf("path %s, %v", name(path), err)
	}
	c.MaxTier = 6
	if _, err := Choose(rand.New(rand.NewPCG(1, 1)), m, c); !errors.Is(err, ErrPrice) {
		t.Errorf("one tier less: %v", err)
	}
}

func TestExitWishText(t *testing.T) {
	for want, w := range map[string]ExitWish{"any": {}, "SE": {Country: "SE"}, testID(1).String(): {ID: testID(1)}} {
		if w.String() != want {
			t.Errorf("%+v is written %q, want %q", w, w.String(), want)
		}
	}
}

func BenchmarkChoose(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 1))
	var specs []spec
	for i := range byte(60) {
		s := spec{n: i + 1, roles: Relay, relay: 1, exit: 1}
		if i%4 == 0 {
			s.roles |= Exit
		}
		for d := range byte(60) {
			if d != i {
				s.neighbors = append(s.neighbors, d+1)
			}
		}
		specs = append(specs, s)
	}
	m := buildMap(b, specs)
	c := Constraints{Now: now, Hops: 3, Guards: ids(1, 2, 3), MaxTier: 255}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Choose(rng, m, c); err != nil {
			b.Fatal(err)
		}
	}
}
