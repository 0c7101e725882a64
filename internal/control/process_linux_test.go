package control

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// TestProcessEnds wants a caller to be known as itself as long as it lives, and as
// nobody afterwards, even if its number is used again.
func TestProcessEnds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	ln, err := Listen(path, "")
	if err != nil {
		t.Fatal(err)
	}
	d := newDoor(ln)
	defer d.Close()
	child := exec.CommandContext(t.Context(), "/proc/self/exe")
	child.Env = append(os.Environ(), "CONTROL_TEST_SOCKET="+path)
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	c, err := d.Accept()
	if err != nil {
		t.Fatal(err)
	}
	p := c.(*visit).who.peer.process
	if p.PID != child.Process.Pid || p.Ended() {
		t.Errorf("the caller is process %d, ended %v; want %d, which lives", p.PID, p.Ended(), child.Process.Pid)
	}
	if p.held == nil {
		t.Log("this kernel knows callers by their number only")
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait() // killed
	for deadline := time.Now().Add(time.Minute); p.held != nil && !p.Ended(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the caller has ended, and is still known as itself")
		}
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if p.held != nil && (p.held.Close() == nil || !p.Ended()) {
		t.Error("what refers to the process outlives its connection")
	}
}
