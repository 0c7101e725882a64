package circuit

import (
	"context"
	"errors"
	"fmt"
	"time"

	"cuttle/relay/link"
	"cuttle/relay/netmap"
	"cuttle/relay/onion"
	"cuttle/relay/wire"
)

// Tunables of Builder: how long a build may take, and how long Probe waits for the
// last hop, if that is more than so many times what the slowest one before took.
const (
	buildTime  = 10 * time.Second
	probeTime  = 1500 * time.Millisecond
	probeTrips = 4
)

// errMute is what a last hop is blamed for that did not answer Probe in time.
var errMute = errors.New("no answer over a path that has just answered")

// BuildError says at which hop a build ended, so that the caller can avoid that
// node. The path is the caller's own; the error does not name the node.
type BuildError struct {
	Hop    int         // index in the path: the hop that was to be added
	Reason wire.Reason // of a refusal; 0 when it was none
	Err    error       // when it was no refusal
}

// Error gives hop and cause.
func (e *BuildError) Error() string {
	if e.Reason != 0 {
		return fmt.Sprintf("build circuit: hop %d: refused: %v", e.Hop+1, e.Reason)
	}
	return fmt.Sprintf("build circuit: hop %d: %v", e.Hop+1, e.Err)
}

// Unwrap returns the cause when it was no refusal.
func (e *BuildError) Unwrap() error { return e.Err }

// Builder makes circuits of our own.
type Builder struct {
	Links  Links
	Suites []onion.Suite // nil: onion's own choice
}

var (
	errLength = fmt.Errorf("a path has 1 to %d hops", wire.MaxHops)
	errPrice  = errors.New("the prices of the path add up to more than a tier can hold")
)

// Build makes a circuit along path (1 to wire.MaxHops nodes), hop by hop, within
// ten seconds and ctx. What goes wrong at a hop is a *BuildError.
func (b *Builder) Build(ctx context.Context, path []*netmap.Record) (*Circuit, error) {
	return b.make(ctx, path, false)
}

// Probe is Build to an exit that may be dead: it gives up soon when all hops have
// answered but the last.
func (b *Builder) Probe(ctx context.Context, path []*netmap.Record) (*Circuit, error) {
	return b.make(ctx, path, true)
}

func (b *Builder) make(ctx context.Context, path []*netmap.Record, probe bool) (*Circuit, error) {
	tiers, err := priced(path)
	if err != nil {
		return nil, fmt.Errorf("build circuit: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, buildTime)
	defer cancel()
	suites := b.Suites
	if len(suites) == 0 {
		suites = onion.DefaultSuites()
	}
	c := &Circuit{id: circuits.Add(1), created: time.Now(), out: newOutlet(), answers: make(chan []byte, 1)}
	for _, r := range path {
		c.hops = append(c.hops, r.ID)
	}
	var slowest time.Duration
	for i, r := range path {
		asked := time.Now()
		if probe && i > 0 && i == len(path)-1 {
			var mute context.CancelFunc
			ctx, mute = context.WithTimeoutCause(ctx, max(probeTime, probeTrips*slowest), errMute)
			defer mute()
		}
		h, msg1, err := onion.StartHop(r.ID, r.KEM, suites)
		if err == nil {
			err = b.ask(c, i, tiers[i], msg1)
		}
		if err == nil {
			err = c.join(ctx, h)
		}
		c.trip.Store(int64(time.Since(asked)))
		slowest = max(slowest, c.Trip())
		if err != nil {
			c.Close()
			return nil, blame(i, err)
		}
	}
	c.built = c.Trip()
	lane := c.lane.Load()
	lane.OnSent(func(int) { c.out.sent(lane) })
	return c, nil
}

// priced returns the tier offered on each link of the path.
func priced(path []*netmap.Record) ([]wire.Tier, error) {
	if len(path) < 1 || len(path) > wire.MaxHops {
		return nil, errLength
	}
	sum := int(path[len(path)-1].ExitPrice)
	for _, r := range path[:len(path)-1] {
		sum += int(r.RelayPrice)
	}
	if sum > int(^wire.Tier(0)) {
		return nil, errPrice
	}
	return netmap.Tiers(path), nil
}

// refusal is a Reason on its way to a BuildError.
type refusal struct{ reason wire.Reason }

func (r refusal) Error() string { return r.reason.String() }

func blame(hop int, err error) error {
	var r refusal
	if errors.As(err, &r) {
		return &BuildError{Hop: hop, Reason: r.reason}
	}
	return &BuildError{Hop: hop, Err: err}
}

// ask sends the first message for hop i: on our own link, or to the last hop so
// far.
func (b *Builder) ask(c *Circuit, i int, tier wire.Tier, msg1 []byte) error {
	c.waiting.Store(true)
	if i > 0 {
		c.control(i-1, wire.AppendExtend(nil, c.hops[i], tier, msg1))
		return nil
	}
	l := b.Links(c.hops[0])
	if l == nil {
		return refusal{wire.ReasonNotConnected}
	}
	lane, err := l.Open(tier, msg1, incoming{c})
	if errors.Is(err, link.ErrClosed) {
		return refusal{wire.ReasonNotConnected}
	}
	if err != nil {
		return err
	}
	c.lane.Store(lane)
	select {
	case <-c.out.done: // it closed before it had its lane
		lane.Close()
	default:
	}
	return nil
}

// join waits for the answer to ask and adds the hop's layers.
func (c *Circuit) join(ctx context.Context, h *onion.HopInitiator) error {
	var answer []byte
	select {
	case answer = <-c.answers:
	case <-c.out.done:
		return ErrClosed
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	m, err := wire.ParseMessage(answer)
	if err != nil {
		return err
	}
	switch m.Type {
	case wire.MessageExtendRefused:
		return refusal{m.Reason}
	case wire.MessageExtended:
		keys, err := h.Finish(m.Handshake)
		if err != nil {
			return err
		}
		return c.path.Add(keys)
	default:
		return errMessage
	}
}
