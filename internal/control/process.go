package control

import "os"

// Process is who called. Its number is another process's when it has ended and
// somebody has waited for it.
type Process struct {
	PID  int
	held *os.File // refers to the process itself (pidfd_open(2)); nil: the kernel gives none
}

// Ended tells whether the process has ended, as far as the kernel lets us know: with
// false after something was done to PID it was done to this process, but on kernels
// before Linux 6.5.
func (p Process) Ended() bool { return p.held != nil && hasEnded(p.held) }
