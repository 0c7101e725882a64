package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"cuttle/internal/lab"
	"cuttle/internal/lab/emulate"
	"cuttle/internal/lab/load"
	"cuttle/internal/lab/netns"

	"golang.org/x/sys/unix"
)

// harm is done to the circuit that carries a download; path is client, hops.
type harm struct {
	name  string
	apply func(ctx context.Context, l *lab.Lab, path []string) error
	ends  bool // the download too: then it is timed when a new request is answered
}

// harms are what is done, each in a network of its own whose circuits have some hops.
func harms(hops int) []harm {
	return []harm{
		{"middle relay killed", killed(2), false},
		{"guard killed", killed(1), false},
		{"link between guard and middle relay silently cut", parted(1, 2), false},
		{"link between client and guard silently cut", parted(0, 1), false},
		{"the client's IPv4 address changes", readdressed, false},
		{"exit killed", killed(hops), true},
	}
}

func killed(hop int) func(context.Context, *lab.Lab, []string) error {
	return func(ctx context.Context, l *lab.Lab, path []string) error {
		return l.Signal(ctx, path[hop], unix.SIGKILL)
	}
}

func parted(a, b int) func(context.Context, *lab.Lab, []string) error {
	return func(ctx context.Context, l *lab.Lab, path []string) error {
		return l.SetLink(ctx, path[a], path[b], emulate.Shape{Down: true})
	}
}

func readdressed(ctx context.Context, l *lab.Lab, path []string) error {
	return l.Readdress(ctx, path[0])
}

// outcome is what a harm has done to a download. If that ended, there are the
// times from the harm to its end and to the first byte of a new request.
type outcome struct {
	load.Result
	ended, answered time.Duration
}

// Recovery measures how long a download stands still when a relay or a link of
// its circuit fails or the client moves, and how long nothing is answered when the
// exit fails, on perfect and on far links, and gives a table. A download that breaks
// otherwise is an error.
func Recovery(ctx context.Context, c Config) (string, error) {
	var b strings.Builder
	b.WriteString("How long one download stands still when the circuit under it is harmed, in seconds; when its exit is killed it ends, and this is how long\n" +
		"it takes until a new request has its first byte, over another exit:\n\n| links | harm | standstill | went on |\n|---|---|---|---|\n")
	var failed error
	for _, shape := range []emulate.Shape{{}, {Delay: farDelay, Rate: farRate}, {Delay: farDelay, Rate: farRate, Loss: farLoss}} {
		for _, h := range harms(c.Options.Hops) {
			if ctx.Err() != nil {
				return b.String(), errors.Join(failed, ctx.Err())
			}
			links := describe(shape)
			say("recovery, %s: %s", links, h.name)
			o, err := recovery(ctx, c, shape, h)
			if err != nil {
				failed = errors.Join(failed, fmt.Errorf("%s, %s: %w", links, h.name, err))
			}
			b.WriteString(recoveryRow(links, h, o, err))
		}
	}
	return b.String(), failed
}

// recoveryRow prints what a harm has done, or why that is not known.
func recoveryRow(links string, h harm, o outcome, err error) string {
	switch {
	case err != nil:
		return fmt.Sprintf("| %s | %s | - | %s |\n", links, h.name, strings.Join(strings.Fields(err.Error()), " "))
	case h.ends:
		return fmt.Sprintf("| %s | %s | %.2f | no: the program has an error after %.2f s, and asks anew |\n", links, h.name, o.answered.Seconds(), o.ended.Seconds())
	}
	return fmt.Sprintf("| %s | %s | %.2f | at %.2g Gbit/s over %.0f s, standstill included |\n", links, h.name, o.Stall, o.Gbits(), o.Seconds)
}

// recovery loads a lab with spare relays and harms it after a while.
func recovery(ctx context.Context, c Config, shape emulate.Shape, h harm) (o outcome, err error) {
	const before, window = 3 * time.Second, 10 * time.Second
	w := world{options: c.Options}
	w.options.Shape, w.options.Billing = shape, false
	if !shape.IsZero() {
		w.congestion = hardy
	}
	if h.ends {
		w.options.Exits = max(w.options.Exits, 2)
	}
	start := func(l *lab.Lab) (from, error) {
		return from{node: l.Plan().Clients()[0].Name}, errors.Join(l.Start(ctx), l.Wait(ctx))
	}
	err = w.with(ctx, start, func(l *lab.Lab, f from) (err error) {
		cfg := load.Config{URL: f.url, Flows: 1, Warmup: before, Window: window}
		if _, _, err := l.Load(ctx, f.node, "prepare", cfg); err != nil {
			return err
		}
		type result struct {
			load.Result
			err error
			at  time.Time
		}
		ended := make(chan result, 1)
		go func() { // ends with its load
			r, _, err := l.Load(ctx, f.node, "download", cfg)
			ended <- result{r, err, time.Now()}
		}()
		select {
		case r := <-ended:
			return errors.Join(errors.New("the download has ended early"), r.err)
		case <-time.After(before + time.Second):
		}
		path, err := inUse(ctx, l, f.node)
		harmed := time.Now()
		if err == nil {
			err = h.apply(ctx, l, path)
		}
		if err == nil && h.ends {
			client, _ := l.Plan().Node(f.node)
			err = answered(ctx, client.Namespace, f.url)
			o.answered = time.Since(harmed)
		}
		r := <-ended
		o.Result, o.ended = r.Result, r.at.Sub(harmed)
		if !h.ends {
			return errors.Join(err, r.err)
		}
		if r.err == nil {
			err = errors.Join(err, errors.New("the download has not ended with its exit"))
		}
		return err
	})
	return o, err
}

// answered returns when a request from a namespace has the first byte of its
// answer. One that fails is made anew, for a minute at most.
func answered(ctx context.Context, namespace, server string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return netns.Dial(ctx, namespace, network, address)
		},
	}}
	for {
		err := firstByte(ctx, client, server+"/ip")
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("no request is answered any more: %w", err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func firstByte(ctx context.Context, client *http.Client, page string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, page, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	_, err = io.ReadFull(resp.Body, make([]byte, 1))
	return err
}

// inUse is the client and the hops of its circuit with the most streams.
func inUse(ctx context.Context, l *lab.Lab, client string) ([]string, error) {
	circuits, err := l.Circuits(ctx, client)
	if err != nil {
		return nil, err
	}
	var hops []string
	most := 0
	for _, circuit := range circuits {
		if circuit.Streams > most {
			most, hops = circuit.Streams, circuit.Hops
		}
	}
	if len(hops) < 2 {
		return nil, errors.New("no circuit carries the download")
	}
	return append([]string{client}, hops...), nil
}
