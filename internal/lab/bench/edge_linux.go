package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// edgeProgram is the compiled test of the package stack, whose BenchmarkEdge
// carries the same load through Cuttle's TUN and stack and through a peer's.
const edgeProgram = "stack.test"

// edgeLine is one result: name, and the two figures it reports.
var edgeLine = regexp.MustCompile(`^BenchmarkEdge/(\S+?)(?:-\d+)?\s+\d+\s+.*?([0-9.]+) Gbit/s\s+([0-9.]+) cpu-s/GB`)

// edge runs that benchmark and gives its results as a table.
func (c Config) edge(ctx context.Context) (string, error) {
	program := filepath.Join(c.Peers, edgeProgram)
	if _, err := os.Stat(program); err != nil {
		return "", errors.New("bin/peers has no stack.test: make peers")
	}
	say("TUN and stack alone")
	pieces := "4000x" // of 256 KiB: about a gigabyte
	if c.Quick {
		pieces = "500x"
	}
	cmd := exec.CommandContext(ctx, program, "-test.run", "^$", "-test.bench", "^BenchmarkEdge$", "-test.benchtime", pieces, "-test.timeout", "5m")
	cmd.Env = append(os.Environ(), "CUTTLE_PEERS="+c.Peers)
	out, err := cmd.CombinedOutput()
	text, rows := edgeTable(string(out))
	if err != nil || rows == 0 {
		return text, errors.Join(err, fmt.Errorf("%d rows, then: %s", rows, lastLines(string(out), 5)))
	}
	return text, nil
}

// edgeTable reads the benchmark's output.
func edgeTable(out string) (table string, rows int) {
	var b strings.Builder
	b.WriteString("TUN and netstack alone: program, TUN, stack, direct dialer, server, one machine. CPU: everything, server and program included.\n\n" +
		"| path | Gbit/s | CPU s/GB |\n|---|---|---|\n")
	for line := range strings.Lines(out) {
		if m := edgeLine.FindStringSubmatch(line); m != nil {
			rows++
			fmt.Fprintf(&b, "| %s | %s | %s |\n", strings.ReplaceAll(m[1], "/", ", "), m[2], m[3])
		}
	}
	return b.String(), rows
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "; ")
}
