package netmap

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"cuttle/relay/wire"
)

// ExitWish describes exits. Fields that are set must all match; the zero value
// matches every exit.
type ExitWish struct {
	ID      wire.NodeID
	Country string // as in Record
}

// Matches tells whether a node's record is what is wished for. That it is an exit is
// not looked at.
func (w ExitWish) Matches(r *Record) bool {
	return (w.ID.IsZero() || w.ID == r.ID) && (w.Country == "" || w.Country == r.Country)
}

// String gives the wish as a person would write it.
func (w ExitWish) String() string {
	switch {
	case !w.ID.IsZero():
		return w.ID.String()
	case w.Country != "":
		return w.Country
	}
	return "any"
}

// Constraints say which paths will do. All must hold.
type Constraints struct {
	Now      time.Time     // records must be valid then
	Hops     int           // 1 to wire.MaxHops
	Self     wire.NodeID   // is never on the path
	Guards   []wire.NodeID // nodes we have a live link to; the first hop is one of them
	Exits    []ExitWish    // in order of preference, the next only if no path fits; none: any exit
	Families Families      // the exit must reach all of them
	Port     uint16        // the exit must let it out; 0: any
	NotExits []wire.NodeID // nodes that are not to be the exit, e.g. since a host refuses them
	Avoid    []wire.NodeID // nodes that are not to be used, e.g. since they failed
	MaxTier  wire.Tier     // the tier we are ready to pay on our own link
}

// Why Choose found no path; test with errors.Is.
var (
	ErrHops         = errors.New("number of hops out of range")
	ErrNoGuard      = errors.New("no guard connected")
	ErrNoExit       = errors.New("no exit matches")
	ErrTooFewRelays = errors.New("too few relays")
	ErrNoRoute      = errors.New("no route between a guard and an exit")
	ErrPrice        = errors.New("price above the ceiling")
)

// Choose returns a path of exactly c.Hops different nodes, first hop first: a
// guard, relays, and an exit; each two in a row are neighbors. Of all paths to
// exits of the first wish that can be met, each is equally likely (so a node with
// more neighbors is on more paths). rng must not be predictable by others: seed
// a rand.ChaCha8 from crypto/rand.
func Choose(rng *rand.Rand, m *Map, c Constraints) ([]*Record, error) {
	if c.Hops < 1 || c.Hops > wire.MaxHops {
		return nil, fmt.Errorf("choose path: %w: %d hops, want 1 to %d", ErrHops, c.Hops, wire.MaxHops)
	}
	g := newGraph(m, c)
	if err := g.possible(c); err != nil {
		return nil, fmt.Errorf("choose path: %w", err)
	}
	for _, wish := range wishes(c) {
		g.aim(wish, c)
		if path := g.search(rng, int(c.MaxTier)); path != nil {
			return path, nil
		}
	}
	for _, wish := range wishes(c) {
		g.aim(wish, c)
		if g.search(rng, maxPrice) != nil {
			return nil, fmt.Errorf("choose path: %w: every path of %d hops costs more than tier %d", ErrPrice, c.Hops, c.MaxTier)
		}
	}
	return nil, fmt.Errorf("choose path: %w: no chain of neighbors with %d hops", ErrNoRoute, c.Hops)
}

func wishes(c Constraints) []ExitWish {
	if len(c.Exits) == 0 {
		return []ExitWish{{}}
	}
	return c.Exits
}

// Tiers returns the tier offered on each link of the path; element 0 is our own
// link to the first hop, element i the one from hop i-1 to hop i (0-based). Each
// relay keeps its relay price; the last hop gets its exit price. The sum is at
// most 255, as it is for every path that Choose returns.
func Tiers(path []*Record) []wire.Tier {
	tiers := make([]wire.Tier, len(path))
	sum := 0
	for i := len(path) - 1; i >= 0; i-- {
		if i == len(path)-1 {
			sum = int(path[i].ExitPrice)
		} else {
			sum += int(path[i].RelayPrice)
		}
		if sum > maxTier {
			panic("netmap: tiers of a path that Choose did not return")
		}
		tiers[i] = wire.Tier(sum)
	}
	return tiers
}

const (
	maxTier  = 1<<8 - 1
	maxPrice = wire.MaxHops * maxTier // more than any path costs
)

// possible says which constraint fails by itself, before any search.
func (g *graph) possible(c Constraints) error {
	guards := 0
	for _, n := range g.nodes {
		if n.guard && (c.Hops == 1 || n.record.Roles&Relay != 0) {
			guards++
		}
	}
	if guards == 0 {
		return fmt.Errorf("%w: %d links, none to a relay in the map that may be used", ErrNoGuard, len(c.Guards))
	}
	exits := 0
	var names []string
	for _, w := range wishes(c) {
		names = append(names, w.String())
		for _, n := range g.nodes {
			if n.serves(w, c) {
				exits++
			}
		}
	}
	if exits == 0 {
		return fmt.Errorf("%w: wanted %s", ErrNoExit, strings.Join(names, ", "))
	}
	relays := 0
	for _, n := range g.nodes {
		if n.record.Roles&Relay != 0 {
			relays++
		}
	}
	if relays < c.Hops-1 || len(g.nodes) < c.Hops {
		return fmt.Errorf("%w: %d usable nodes, %d of them relays, for %d hops", ErrTooFewRelays, len(g.nodes), relays, c.Hops)
	}
	return nil
}

// node is a usable node of the map during one Choose.
type node struct {
	record *Record
	edges  []int // indices of neighbors
	guard  bool
	exit   bool // serves the wish aimed at
}

func (n *node) serves(w ExitWish, c Constraints) bool {
	r := n.record
	return r.Roles&Exit != 0 && r.Families&c.Families == c.Families && (c.Port == 0 || r.Accepts(c.Port)) &&
		!slices.Contains(c.NotExits, r.ID) && w.Matches(r)
}

// graph is the part of the map that the constraints leave.
type graph struct {
	nodes []node
	hops  int
	// walks[k][i] counts the ways to go from node i to an exit in k steps, and
	// cheap[k][i] is what the cheapest costs (node i included); repeats of a node
	// are not excluded, so both are bounds for paths.
	walks [wire.MaxHops][]float64
	cheap [wire.MaxHops][]int
}

func newGraph(m *Map, c Constraints) *graph {
	g := &graph{hops: c.Hops}
	index := map[wire.NodeID]int{}
	for _, r := range m.Records() {
		usable := r.Roles != 0 && r.ValidAt(c.Now) == nil && r.ID != c.Self && !slices.Contains(c.Avoid, r.ID)
		if usable {
			index[r.ID] = len(g.nodes)
			g.nodes = append(g.nodes, node{record: r, guard: slices.Contains(c.Guards, r.ID)})
		}
	}
	for i := range g.nodes {
		n := &g.nodes[i]
		for _, id := range n.record.Neighbors {
			if j, ok := index[id]; ok && g.nodes[j].record.Lists(n.record.ID) {
				n.edges = append(n.edges, j)
			}
		}
	}
	return g
}

// aim marks the exits of a wish and counts the walks to them.
func (g *graph) aim(w ExitWish, c Constraints) {
	for k := range g.hops {
		g.walks[k] = make([]float64, len(g.nodes))
		g.cheap[k] = make([]int, len(g.nodes))
	}
	for i := range g.nodes {
		n := &g.nodes[i]
		n.exit = n.serves(w, c)
		g.cheap[0][i] = maxPrice + 1
		if n.exit {
			g.walks[0][i], g.cheap[0][i] = 1, int(n.record.ExitPrice)
		}
	}
	for k := 1; k < g.hops; k++ {
		for i := range g.nodes {
			n := &g.nodes[i]
			g.cheap[k][i] = maxPrice + 1
			if n.record.Roles&Relay == 0 {
				continue
			}
			for _, j := range n.edges {
				g.walks[k][i] += g.walks[k-1][j]
				g.cheap[k][i] = min(g.cheap[k][i], g.cheap[k-1][j]+int(n.record.RelayPrice))
			}
		}
	}
}

const (
	sampleTries = 200     // walks drawn before the search becomes exhaustive
	searchSteps = 1 << 20 // nodes visited by the exhaustive search at most
)

// search returns a path of at most that price, or nil if there is none. Drawing
// walks with equal chances and keeping the first that is a path makes all paths
// equally likely. If paths are so rare among walks that none comes up, a search
// in random order decides whether there is one; on a map so large and hostile that
// searchSteps do not suffice, it says no.
func (g *graph) search(rng *rand.Rand, price int) []*Record {
	for range sampleTries {
		walk := g.walk(rng)
		if walk == nil {
			return nil
		}
		if path := g.check(walk, price); path != nil {
			return path
		}
	}
	s := searcher{g: g, rng: rng, steps: searchSteps}
	var guards []int
	for i := range g.nodes {
		if g.nodes[i].guard {
			guards = append(guards, i)
		}
	}
	if !s.extend(guards, g.hops-1, price) {
		return nil
	}
	return g.records(s.path)
}

// walk draws one of the walks from a guard to an exit, all equally likely, or
// returns nil if there is none.
func (g *graph) walk(rng *rand.Rand) []int {
	var candidates []int
	for i := range g.nodes {
		if g.nodes[i].guard {
			candidates = append(candidates, i)
		}
	}
	walk := make([]int, 0, g.hops)
	for k := g.hops - 1; k >= 0; k-- {
		next := pick(rng, candidates, g.walks[k])
		if next < 0 {
			return nil
		}
		walk = append(walk, next)
		candidates = g.nodes[next].edges
	}
	return walk
}

// pick draws one of the candidates with chances in proportion to weight; -1 if
// all weights are zero.
func pick(rng *rand.Rand, candidates []int, weight []float64) int {
	sum := 0.0
	for _, i := range candidates {
		sum += weight[i]
	}
	x := rng.Float64() * sum
	last := -1
	for _, i := range candidates {
		if weight[i] == 0 {
			continue
		}
		last = i
		if x -= weight[i]; x < 0 {
			break
		}
	}
	return last
}

// check returns the walk's records if no node comes twice and the price holds.
func (g *graph) check(walk []int, price int) []*Record {
	sum := 0
	for k, i := range walk {
		if slices.Contains(walk[:k], i) {
			return nil
		}
		sum += g.price(i, len(walk)-1-k)
	}
	if sum > price {
		return nil
	}
	return g.records(walk)
}

// price is what node i asks when so many hops come after it.
func (g *graph) price(i, after int) int {
	if after == 0 {
		return int(g.nodes[i].record.ExitPrice)
	}
	return int(g.nodes[i].record.RelayPrice)
}

func (g *graph) records(path []int) []*Record {
	out := make([]*Record, len(path))
	for k, i := range path {
		out[k] = g.nodes[i].record
	}
	return out
}

// searcher walks through all paths in random order, leaving out what the bounds
// of the graph rule out.
type searcher struct {
	g     *graph
	rng   *rand.Rand
	path  []int
	steps int
}

// extend tries candidates as the node that has so many hops after it.
func (s *searcher) extend(candidates []int, after, price int) bool {
	for _, at := range s.rng.Perm(len(candidates)) {
		i := candidates[at]
		if s.g.walks[after][i] == 0 || s.g.cheap[after][i] > price || slices.Contains(s.path, i) {
			continue
		}
		if s.steps--; s.steps < 0 {
			return false
		}
		s.path = append(s.path, i)
		if after == 0 || s.extend(s.g.nodes[i].edges, after-1, price-s.g.price(i, after)) {
			return true
		}
		s.path = s.path[:len(s.path)-1]
	}
	return false
}
