package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"cuttle/billing"
	"cuttle/internal/config"
	"cuttle/internal/control"
	"cuttle/relay/circuit"
	"cuttle/relay/netmap"
	"cuttle/relay/wire"
	"cuttle/stack"
)

const (
	countEvery  = time.Second // so a limit is passed by what a second carries
	keepEvery   = time.Minute // what a crash forgets of a day's consumption
	dayFormat   = "2006-01-02"
	consumedFor = 31 // days that are kept
)

var errLimit = errors.New("a spending limit of today is reached")

// spending holds what this machine's own traffic costs under its user's limits.
// At a limit its flows end and new ones are refused until the next day (by the
// machine's time zone) or until the limit is raised; payments of debts, and the
// calls to the chain that they need, go on. It counts the cells of our own circuits;
// what a relay spends for others it gets back from them.
//
// A nil *spending has no limits.
type spending struct {
	book        *billing.Book
	perDay      billing.Amount // 0: no limit
	perNeighbor billing.Amount // a day; 0: no limit
	perGB       string         // as configured
	maxTier     wire.Tier      // by the limit per gigabyte
	now         func() time.Time
	log         *slog.Logger

	mu      sync.Mutex // guards the fields below
	day     string
	cells   map[place]wire.Cells // of day
	unsaved map[place]wire.Cells
	open    map[*circuit.Circuit]wire.Cells // what is counted of it
	spent   billing.Amount
	by      map[wire.NodeID]billing.Amount
}

type place struct {
	node wire.NodeID
	tier wire.Tier
}

// newSpending reads the limits; nil when there are none.
func newSpending(cfg *config.Config, book *billing.Book, log *slog.Logger) (*spending, error) {
	b := &cfg.Billing
	s := &spending{book: book, perGB: b.SpendPerGB, maxTier: wire.Tier(cfg.Client.MaxTier), now: time.Now, log: log, open: make(map[*circuit.Circuit]wire.Cells)}
	var perGB billing.Amount
	for _, l := range []struct {
		text string
		to   *billing.Amount
	}{{b.SpendPerDay, &s.perDay}, {b.SpendPerNeighbor, &s.perNeighbor}, {b.SpendPerGB, &perGB}} {
		n, err := config.Amount(l.text)
		if err != nil {
			return nil, err
		}
		*l.to = billing.Amount(n)
	}
	if book == nil || s.perDay == 0 && s.perNeighbor == 0 && perGB == 0 {
		return nil, nil //nolint:nilnil // no limits are a valid outcome
	}
	for perGB > 0 && s.maxTier > 0 && billing.Owed(gigabyte, s.maxTier) > perGB {
		s.maxTier--
	}
	s.begin(s.now().Format(dayFormat))
	before, err := book.ConsumedOn(context.Background(), s.day)
	if err != nil {
		return nil, fmt.Errorf("read what was consumed today: %w", err)
	}
	for _, c := range before {
		s.cells[place{c.Node, c.Tier}] += c.Cells
	}
	s.price()
	return s, nil
}

// begin starts a day. mu is held, or nobody else has s.
func (s *spending) begin(day string) {
	s.day, s.spent = day, 0
	s.cells, s.unsaved, s.by = make(map[place]wire.Cells), make(map[place]wire.Cells), make(map[wire.NodeID]billing.Amount)
}

// price works out what the cells cost. mu is held, or nobody else has s.
func (s *spending) price() {
	s.spent = 0
	clear(s.by)
	for at, n := range s.cells {
		cost := billing.Owed(n, at.tier)
		s.spent += cost
		s.by[at.node] += cost
	}
}

// opened has a circuit of ours counted.
func (s *spending) opened(c *circuit.Circuit) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open[c] = 0
}

// count adds what circuits have carried since the last time.
func (s *spending) count() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c, counted := range s.open {
		st := c.Status()
		at := place{st.Hops[0], st.Tier}
		if more := st.Sent + st.Received - counted; more > 0 {
			s.cells[at] += more
			s.unsaved[at] += more
			s.open[c] = counted + more
		}
		if !st.Open {
			delete(s.open, c)
		}
	}
	// What was carried since the last look was the old day's.
	if day := s.now().Format(dayFormat); day != s.day {
		s.begin(day)
	}
	s.price()
}

// save writes down what was counted.
func (s *spending) save(ctx context.Context) error {
	s.mu.Lock()
	day, more := s.day, make([]billing.Consumed, 0, len(s.unsaved))
	for at, n := range s.unsaved {
		more = append(more, billing.Consumed{Node: at.node, Tier: at.tier, Cells: n})
	}
	oldest := s.now().AddDate(0, 0, -consumedFor).Format(dayFormat)
	s.mu.Unlock()
	if len(more) == 0 {
		return nil
	}
	if err := s.book.Consume(ctx, day, oldest, more); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if day == s.day {
		for _, c := range more {
			s.unsaved[place{c.Node, c.Tier}] -= c.Cells
			if s.unsaved[place{c.Node, c.Tier}] == 0 {
				delete(s.unsaved, place{c.Node, c.Tier})
			}
		}
	}
	return nil
}

// full tells whether the limit for one neighbor is reached.
func (s *spending) full(id wire.NodeID) bool {
	return s.perNeighbor > 0 && s.by[id] >= s.perNeighbor
}

// guards leaves out the neighbors whose limit is reached, unless it is for all of
// them: then reached says so, and what is built is for payments.
func (s *spending) guards(all []wire.NodeID) []wire.NodeID {
	if s == nil {
		return all
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var left []wire.NodeID
	for _, id := range all {
		if !s.full(id) {
			left = append(left, id)
		}
	}
	if len(left) == 0 {
		return all
	}
	return left
}

// reached says why this machine's flows are not carried, nil if they are.
func (s *spending) reached(guards []wire.NodeID) error {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.perDay > 0 && s.spent >= s.perDay {
		return fmt.Errorf("%w: %w", stack.ErrProhibited, errLimit)
	}
	for _, id := range guards {
		if !s.full(id) {
			return nil
		}
	}
	if len(guards) == 0 || s.perNeighbor == 0 {
		return nil
	}
	return fmt.Errorf("%w: %w", stack.ErrProhibited, errLimit)
}

// retired closes the circuits over neighbors whose limit is reached while others
// are left: the sessions on them go on elsewhere.
func (s *spending) retired(guards []wire.NodeID) {
	left := s.guards(guards)
	s.mu.Lock()
	var over []*circuit.Circuit
	for c := range s.open {
		if s.full(c.Hops()[0]) && len(left) < len(guards) {
			over = append(over, c)
		}
	}
	s.mu.Unlock()
	for _, c := range over {
		c.Close()
	}
}

// run counts until ctx ends and calls cut, once, when a limit is reached.
func (s *spending) run(ctx context.Context, guards func() []wire.NodeID, cut func()) error {
	if s == nil {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(countEvery)
	defer tick.Stop()
	was, saved := false, s.now()
	for {
		select {
		case <-ctx.Done():
			s.count()
			return s.save(context.WithoutCancel(ctx))
		case <-tick.C:
		}
		s.count()
		is := s.reached(guards()) != nil
		if is && !was {
			s.log.Warn("a spending limit is reached; this machine's traffic is not carried")
			cut()
		}
		if was = is; !is {
			s.retired(guards())
		}
		if now := s.now(); now.Sub(saved).Abs() >= keepEvery {
			saved = now
			if err := s.save(ctx); err != nil && ctx.Err() == nil {
				s.log.Error("the ledger does not take what was consumed", "err", err)
			}
		}
	}
}

// problems tells a user which limits are reached and what helps.
func (s *spending) problems(guards []wire.NodeID, failure error) (out []control.Problem) {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.perDay > 0 && s.spent >= s.perDay {
		out = append(out, control.Problem{
			Text: fmt.Sprintf("today's spending limit is reached: %v of %v tokens; this machine's traffic is not carried, debts are paid", s.spent, s.perDay),
			Hint: "wait until midnight, or raise billing.spend_per_day and restart the daemon",
		})
	}
	for _, id := range guards {
		if s.full(id) {
			out = append(out, control.Problem{
				Text: fmt.Sprintf("today's spending limit for neighbor %s is reached: %v of %v tokens; traffic goes over others, if there are any", id, s.by[id], s.perNeighbor),
				Hint: "wait until midnight, raise billing.spend_per_neighbor and restart the daemon, or add a neighbor",
			})
		}
	}
	if errors.Is(failure, netmap.ErrPrice) {
		out = append(out, control.Problem{
			Text: fmt.Sprintf("no path costs as little as billing.spend_per_gb allows (%s tokens)", s.perGB),
			Hint: "`cuttle exits` shows what paths cost; raise billing.spend_per_gb or client.max_tier and restart the daemon",
		})
	}
	return out
}
