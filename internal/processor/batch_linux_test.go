package processor

import (
	"os"
	"runtime"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// TestBatch: all threads wait for their turn, and so does a new one; priorities stay.
func TestBatch(t *testing.T) {
	nice := func() map[int]int32 {
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			t.Fatal(err)
		}
		all := make(map[int]int32)
		for _, task := range tasks {
			id, err := strconv.Atoi(task.Name())
			if err != nil {
				t.Fatal(err)
			}
			if attr, err := unix.SchedGetAttr(id, 0); err == nil { // it may have ended
				all[id] = attr.Nice
			}
		}
		return all
	}
	before := nice()
	Batch()
	started := make(chan struct{})
	for range 4 { // new threads, since these are locked to theirs
		go func() { // ends with the line below
			runtime.LockOSThread()
			started <- struct{}{}
		}()
	}
	for range 4 {
		<-started
	}
	for id, n := range nice() {
		attr, err := unix.SchedGetAttr(id, 0)
		if err != nil {
			continue // it has ended
		}
		if attr.Policy != unix.SCHED_BATCH {
			t.Errorf("thread %d has policy %d, want SCHED_BATCH", id, attr.Policy)
		}
		if was, ok := before[id]; ok && was != n {
			t.Errorf("thread %d has the priority %d, had %d", id, n, was)
		}
	}
}
