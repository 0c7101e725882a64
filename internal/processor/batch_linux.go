package processor

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Batch has the kernel let this process's threads wait for their turn (SCHED_BATCH,
// sched(7)): when they wake they do not take the processor from who is at work, and
// what comes meanwhile is done in one go. Threads that come later do as those that
// make them; it is called early. Another policy than the usual one is somebody's
// choice, and stays. Best effort: a sandbox may forbid it.
func Batch() {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return
	}
	for _, task := range tasks {
		id, err := strconv.Atoi(task.Name())
		if err != nil {
			continue
		}
		attr, err := unix.SchedGetAttr(id, 0)
		if err != nil || attr.Policy != unix.SCHED_NORMAL {
			continue
		}
		attr.Policy = unix.SCHED_BATCH
		_ = unix.SchedSetAttr(id, attr, 0)
	}
}
