package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"cuttle/internal/control"
)

const (
	topStep = time.Second
	// Of the terminal: another screen, without a cursor, and back.
	enterScreen = "\x1b[?1049h\x1b[?25l"
	leaveScreen = "\x1b[?25h\x1b[?1049l"
	homeAndWipe = "\x1b[H\x1b[J"
)

func topCommand(a *app) *cobra.Command {
	return &cobra.Command{Use: "top", Short: "watch rates, circuits, neighbors and money; q ends it", RunE: func(c *cobra.Command, _ []string) error {
		in, ok := a.in.(*os.File)
		out, ok2 := a.out.(*os.File)
		if !ok || !ok2 || !term.IsTerminal(int(in.Fd())) || !term.IsTerminal(int(out.Fd())) {
			return &control.Error{Text: "top needs a terminal", Hint: "cuttle status --watch --json goes into files and pipes"}
		}
		d, err := control.Dial(a.socket)
		if err != nil {
			return err
		}
		if _, err := sample(c.Context(), d); err != nil {
			return err // before the screen is changed
		}
		return top(c.Context(), d, in, out)
	}}
}

// moment is what is read for one picture.
type moment struct {
	status    control.Status
	traffic   control.Traffic
	circuits  []control.Circuit
	neighbors []control.Neighbor
	ledger    control.Ledger
	err       error // the daemon does not answer any more
}

func sample(ctx context.Context, d *control.Client) (m moment, err error) {
	ctx, cancel := context.WithTimeout(ctx, hungTime)
	defer cancel()
	if m.status, err = d.Status(ctx); err != nil {
		return m, err
	}
	if m.traffic, err = d.Traffic(ctx); err != nil {
		return m, err
	}
	circuits, err := d.Circuits(ctx)
	if err != nil {
		return m, err
	}
	neighbors, err := d.Neighbors(ctx)
	if err != nil {
		return m, err
	}
	m.circuits, m.neighbors = circuits.Circuits, neighbors.Neighbors
	m.ledger, err = d.Ledger(ctx)
	return m, err
}

// top draws until q, Ctrl-C or the end of ctx, and leaves the terminal as it was.
func top(ctx context.Context, d *control.Client, in, out *os.File) (err error) {
	old, err := term.MakeRaw(int(in.Fd()))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, term.Restore(int(in.Fd()), old)) }()
	if _, err := io.WriteString(out, enterScreen); err != nil {
		return err
	}
	defer func() { _, _ = io.WriteString(out, leaveScreen) }() // the terminal has gone: nobody to tell
	ctx, cancel := context.WithCancel(ctx)
	keys := readKeys(ctx, in)
	defer func() {
		cancel()
		for range keys { // until its reader has ended
		}
	}()
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, unix.SIGWINCH)
	defer signal.Stop(resized)
	tick := time.NewTicker(topStep)
	defer tick.Stop()
	var before, now moment
	for {
		if m, err := sample(ctx, d); err != nil {
			now.err = err
		} else {
			before, now = now, m
		}
		if err := draw(out, before, now); err != nil {
			return err
		}
		for waiting := true; waiting; {
			select {
			case <-tick.C:
				waiting = false
			case <-resized:
				if err := draw(out, before, now); err != nil {
					return err
				}
			case k, ok := <-keys:
				if !ok || k == 'q' || k == 'Q' || k == 3 || k == 4 { // Ctrl-C, Ctrl-D
					return nil
				}
			case <-ctx.Done():
				return nil
			}
		}
	}
}

// keyWait is how long a read of a key may block, tenths of a second: so long does
// the end take at most.
const keyWait = 1

// readKeys reads keys until ctx ends or the terminal does; then the channel closes.
func readKeys(ctx context.Context, in *os.File) <-chan byte {
	keys := make(chan byte, 16)
	fd := int(in.Fd())
	if t, err := unix.IoctlGetTermios(fd, ioctlReadTermios); err == nil { // so that a read ends by itself
		t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 0, keyWait
		_ = unix.IoctlSetTermios(fd, ioctlWriteTermios, t) // without it the first key after the end is lost
	}
	go func() { // ends with ctx, a tenth of a second later
		defer close(keys)
		var b [1]byte
		for ctx.Err() == nil {
			n, err := unix.Read(fd, b[:])
			if err != nil && !errors.Is(err, unix.EINTR) {
				return
			}
			if n == 1 {
				select {
				case keys <- b[0]:
				default: // nobody types so fast
				}
			}
		}
	}()
	return keys
}

func draw(out *os.File, before, now moment) error {
	width, height, err := term.GetSize(int(out.Fd()))
	if err != nil || width <= 0 || height <= 0 {
		width, height = 80, 24
	}
	_, err = io.WriteString(out, homeAndWipe+strings.Join(picture(before, now, width, height, time.Now()), "\r\n"))
	return err
}

// picture gives at most height lines of at most width characters.
func picture(before, now moment, width, height int, at time.Time) []string {
	p := &page{now: at}
	st := now.status
	state := strings.ToUpper(string(st.State))
	if now.err != nil {
		state = "UNKNOWN"
	}
	p.line("cuttle top  %s  exit %s %s", state, dash(short(st.Exit)), strings.Join(st.Seen, " "))
	if now.err != nil {
		p.line("! cuttled does not answer: %v", now.err)
	}
	p.problems(st.Problems)
	seconds := float64(now.traffic.Time-before.traffic.Time) / 1000
	p.line("this machine  out %s  in %s   total %s out, %s in",
		rate(before.traffic.Sent, now.traffic.Sent, seconds, 1), rate(before.traffic.Received, now.traffic.Received, seconds, 1),
		bytesOf(now.traffic.Sent), bytesOf(now.traffic.Received))
	if l := now.ledger; l.Mode != "" && l.Mode != "none" {
		line := fmt.Sprintf("money         we owe %s  owed to us %s", dash(l.TotalOwed), dash(l.TotalDue))
		for _, w := range l.Wallets {
			line += fmt.Sprintf("  %s %s", w.Purpose, dash(w.Token))
		}
		if !l.ChainOK {
			line += "  THE CHAIN DOES NOT ANSWER"
		}
		p.line("%s", line)
	}
	p.line("")
	p.topNeighbors(before, now, seconds)
	p.line("")
	p.circuits(now.circuits)
	if now.status.Relayed > 0 {
		p.line("%d circuits of others pass through here.", now.status.Relayed)
	}
	return fit(p.String(), width, height, "q ends")
}

func (p *page) topNeighbors(before, now moment, seconds float64) {
	earlier := map[string]control.Neighbor{}
	for _, n := range before.neighbors {
		earlier[n.Node] = n
	}
	var rows []string
	for _, n := range now.neighbors {
		sent, received := cellsOf(n)
		old := earlier[n.Node]
		oldSent, oldReceived := cellsOf(old)
		if old.Since != n.Since { // another link: its counters began anew
			oldSent, oldReceived = sent, received
		}
		state := string(n.State)
		if n.Error != "" {
			state += ": " + n.Error
		}
		rows = append(rows, cells(short(n.Node), n.Mask, millis(n.RTT), n.Circuits,
			rate(oldSent, sent, seconds, now.traffic.CellSize), rate(oldReceived, received, seconds, now.traffic.CellSize), state))
	}
	p.table(cells("NEIGHBOR", "MASK", "RTT", "CIRCUITS", "OUT", "IN", "STATE"), rows)
}

func cellsOf(n control.Neighbor) (sent, received uint64) {
	for _, c := range n.Cells {
		sent, received = sent+c.Sent, received+c.Received
	}
	return sent, received
}

// rate is the growth of a counter of units of so many bytes, in bits per second.
func rate(before, now uint64, seconds float64, unit int) string {
	if seconds <= 0 || seconds > 60 || now < before { // the first picture, or a counter that began anew
		return "-"
	}
	return scaled(float64(now-before)*float64(unit)*8/seconds, "bit/s")
}

func bytesOf(n uint64) string { return scaled(float64(n), "B") }

// scaled writes a number with three digits or so and a decimal prefix.
func scaled(v float64, unit string) string {
	prefixes := []string{"", "k", "M", "G", "T", "P"}
	i := 0
	for v >= 1000 && i < len(prefixes)-1 {
		v /= 1000
		i++
	}
	if i == 0 || v >= 100 {
		return fmt.Sprintf("%.0f %s%s", v, prefixes[i], unit)
	}
	return fmt.Sprintf("%.1f %s%s", v, prefixes[i], unit)
}

// fit cuts a text to a screen; the last line is the foot. Characters that would
// move the cursor are not let through.
func fit(text string, width, height int, foot string) []string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	if len(lines) > height-1 {
		lines = lines[:max(0, height-1)]
	}
	for len(lines) < height-1 {
		lines = append(lines, "")
	}
	lines = append(lines, foot)
	for i, l := range lines {
		var b strings.Builder
		n := 0
		for _, r := range l {
			if n == width {
				break
			}
			if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
				r = '?'
			}
			b.WriteRune(r)
			n++
		}
		lines[i] = b.String()
	}
	return lines
}
