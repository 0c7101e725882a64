package bench

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// softIRQ is the CPU time that the kernel's ksoftirqd threads have used on this
// machine: packets are carried by them when there are many.
func softIRQ() time.Duration {
	var ticks int64
	files, _ := filepath.Glob("/proc/[0-9]*/comm") // the pattern is right
	for _, f := range files {
		name, err := os.ReadFile(f)
		if err != nil || !strings.HasPrefix(string(name), "ksoftirqd/") {
			continue
		}
		b, err := os.ReadFile(filepath.Join(filepath.Dir(f), "stat"))
		if err != nil {
			continue
		}
		_, rest, _ := strings.Cut(string(b), ") ")
		fields := strings.Fields(rest)
		if len(fields) < 13 {
			continue
		}
		system, _ := strconv.ParseInt(fields[12], 10, 64) // proc(5): stime
		ticks += system
	}
	return time.Duration(ticks) * time.Second / 100
}
