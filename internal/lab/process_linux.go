package lab

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"

	"cuttle/internal/lab/netns"

	"golang.org/x/sys/unix"
)

const (
	readyTimeout = 60 * time.Second // for a server to say that it serves
	termTimeout  = 5 * time.Second  // between the polite and the other signal
	pollPeriod   = 20 * time.Millisecond
	maxReadyLine = 64 << 10
)

// start runs argv in the namespace, in a session of its own so that it outlives
// us and is not hit by our Ctrl-C, and records it under name. Its output goes to
// the log file, except that ready, if not nil, gets the first line of stdout.
func (l *Lab) start(ctx context.Context, name, namespace string, ready *[]byte, argv ...string) error {
	if err := os.MkdirAll(l.opts.fileOf(name, ""), 0o700); err != nil {
		return fmt.Errorf("make folder of %s: %w", name, err)
	}
	out, err := os.OpenFile(l.opts.fileOf(name, logFile), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open log of %s: %w", name, err)
	}
	defer func() { _ = out.Close() }()
	// Not ctx: the process outlives it; Down ends it.
	cmd := netns.Command(context.WithoutCancel(ctx), namespace, argv...)
	cmd.Stderr = out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	var first *os.File
	if ready == nil {
		cmd.Stdout = out
	} else {
		r, w, err := os.Pipe()
		if err != nil {
			return fmt.Errorf("make pipe: %w", err)
		}
		defer func() { _ = r.Close(); _ = w.Close() }()
		cmd.Stdout, first = w, r
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	p, ok := readProcess(cmd.Process.Pid)
	if ok {
		l.state.Processes[name] = p
		err = l.state.save()
	}
	go func() { _ = cmd.Wait() }() // reaps it if we live longer; ends with the process
	if err != nil {
		_ = cmd.Process.Kill()
		return err
	}
	if ready == nil {
		return nil
	}
	if w, isFile := cmd.Stdout.(*os.File); isFile {
		_ = w.Close() // so that the end of the process is the end of the pipe
	}
	*ready, err = firstLine(ctx, first)
	if err != nil {
		return fmt.Errorf("start %s: %w%s", name, err, l.lastWords(name))
	}
	return nil
}

// firstLine waits for a line.
func firstLine(ctx context.Context, r *os.File) ([]byte, error) {
	if err := r.SetReadDeadline(time.Now().Add(readyTimeout)); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = r.SetReadDeadline(time.Now()) })
	defer stop()
	line, err := bufio.NewReader(io.LimitReader(r, maxReadyLine)).ReadBytes('\n')
	if err != nil {
		return nil, errors.Join(errors.New("it did not get ready"), ctx.Err())
	}
	return line, nil
}

// lastWords is the end of a process's log, for error messages.
func (l *Lab) lastWords(name string) string {
	const most = 2000
	b, err := os.ReadFile(l.opts.fileOf(name, logFile))
	if err != nil || len(bytes.TrimSpace(b)) == 0 {
		return ""
	}
	return "\n" + strings.TrimSpace(string(b[max(0, len(b)-most):]))
}

// stop ends processes: all politely at once, and those that do not listen by
// force. It returns when they are gone.
func stop(processes []process) error {
	deadline := time.Now().Add(termTimeout)
	if err := signalAll(processes, unix.SIGTERM); err != nil {
		return err
	}
	if err := signalAll(processes, unix.SIGCONT); err != nil { // a stopped one cannot end
		return err
	}
	t := time.NewTicker(pollPeriod)
	defer t.Stop()
	for anyAlive(processes) {
		<-t.C
		if time.Now().Before(deadline) {
			continue
		}
		if err := signalAll(processes, unix.SIGKILL); err != nil {
			return err
		}
		if time.Since(deadline) > termTimeout {
			return errors.New("a process of the lab does not end")
		}
	}
	return nil
}

func anyAlive(processes []process) bool {
	for _, p := range processes {
		if p.alive() {
			return true
		}
	}
	return false
}

func signalAll(processes []process, sig syscall.Signal) error {
	for _, p := range processes {
		if err := p.signal(sig); err != nil {
			return err
		}
	}
	return nil
}

// signal sends to this very process and to nobody who has got its number: the
// descriptor is taken first, then the start time is checked.
func (p process) signal(sig syscall.Signal) error {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open process: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	if !p.alive() {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal process: %w", err)
	}
	return nil
}
