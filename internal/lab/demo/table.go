package demo

import (
	"errors"
	"fmt"
	"io"
	"strings"
)

// ErrFailed means that a line of the table does not hold.
var ErrFailed = errors.New("not every line of the table holds")

// table is the demo's result, one claim per line.
type table struct{ lines []line }

type line struct {
	what string
	text string
	ok   bool
}

// add appends a claim that was checked.
func (t *table) add(what string, ok bool, format string, args ...any) {
	t.lines = append(t.lines, line{what, fmt.Sprintf(format, args...), ok})
}

// err is ErrFailed if a claim does not hold, or if there is none.
func (t *table) err() error {
	for _, l := range t.lines {
		if !l.ok {
			return ErrFailed
		}
	}
	if len(t.lines) == 0 {
		return ErrFailed
	}
	return nil
}

// print writes the table.
func (t *table) print(w io.Writer) error {
	width := 0
	for _, l := range t.lines {
		width = max(width, len(l.what))
	}
	var b strings.Builder
	last := ""
	for _, l := range t.lines {
		verdict := "ok  "
		if !l.ok {
			verdict = "FAIL"
		}
		what := l.what
		if what == last {
			what = ""
		}
		last = l.what
		fmt.Fprintf(&b, "%s  %-*s  %s\n", verdict, width, what, strings.ReplaceAll(l.text, "\n", "\n"+strings.Repeat(" ", width+8)))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// size writes a number of bytes for people.
func size(n uint64) string {
	switch {
	case n >= 1e9:
		return fmt.Sprintf("%.2f GB", float64(n)/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	case n >= 1e3:
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	}
	return fmt.Sprintf("%d B", n)
}
