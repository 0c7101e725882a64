package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"cuttle/internal/lab/load"
	"cuttle/internal/lab/netns"
)

// Usage is what a process of the lab has used since its start.
type Usage struct {
	CPU  time.Duration // user and system
	Peak int64         // most bytes in memory (VmHWM)
}

// Usages measures every process that runs, by node; the link emulator is "net".
func (l *Lab) Usages() map[string]Usage {
	all := make(map[string]Usage)
	for name, p := range l.state.Processes {
		cpu, ok1 := p.cpuTime()
		peak, ok2 := p.peakMemory()
		if ok1 && ok2 {
			all[name] = Usage{CPU: cpu, Peak: peak}
		}
	}
	return all
}

// Load runs the load generator as a process inside a node's namespace and gives
// its result and the CPU time it used itself.
func (l *Lab) Load(ctx context.Context, node, mode string, c load.Config) (load.Result, time.Duration, error) {
	n, err := l.node(node)
	if err != nil {
		return load.Result{}, 0, err
	}
	cmd := netns.Command(ctx, n.Namespace, "/proc/self/exe", load.VerbLoad, "-mode", mode, "-url", c.URL, "-flows", fmt.Sprint(c.Flows),
		"-warmup", c.Warmup.String(), "-window", c.Window.String(), "-count", fmt.Sprint(c.Count), "-proxy", c.Proxy)
	out, err := cmd.Output()
	if err != nil {
		text := ""
		if e, ok := err.(*exec.ExitError); ok { //nolint:errorlint // Output gives it unwrapped
			text = ": " + strings.TrimSpace(string(e.Stderr))
		}
		return load.Result{}, 0, fmt.Errorf("%s in %s: %w%s", mode, node, err, text)
	}
	var r load.Result
	if err := json.Unmarshal(out, &r); err != nil {
		return load.Result{}, 0, fmt.Errorf("%s in %s: %w", mode, node, err)
	}
	return r, cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), nil
}
