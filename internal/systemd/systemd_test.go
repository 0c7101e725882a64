package systemd

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// manager is systemd's end of the notification socket.
func manager(t *testing.T) (*net.UnixConn, *Supervisor) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "30000000"}
	unset := map[string]bool{}
	s, err := New(func(k string) string { return env[k] }, func(k string) error { unset[k] = true; return nil })
	if err != nil {
		t.Fatal(err)
	}
	if !unset["NOTIFY_SOCKET"] || !unset["LISTEN_FDS"] {
		t.Errorf("unset %v, want what children must not see", unset)
	}
	return conn, s
}

// receive reads one message and the files that came with it.
func receive(t *testing.T, conn *net.UnixConn) (text string, fds []int) {
	t.Helper()
	b, oob := make([]byte, 4096), make([]byte, 512)
	n, on, _, _, err := conn.ReadMsgUnix(b, oob)
	if err != nil {
		t.Fatal(err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:on])
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range messages {
		got, err := unix.ParseUnixRights(&m)
		if err != nil {
			t.Fatal(err)
		}
		fds = append(fds, got...)
	}
	return string(b[:n]), fds
}

func TestNotify(t *testing.T) {
	conn, s := manager(t)
	if got := s.Watchdog(); got != 30*time.Second {
		t.Errorf("watchdog %v, want 30s", got)
	}
	for _, tc := range []struct {
		send func() error
		want string
	}{
		{s.Ready, "READY=1"},
		{s.Stopping, "STOPPING=1"},
		{s.Alive, "WATCHDOG=1"},
		{func() error { return s.Status("two\nREADY=1") }, "STATUS=two READY=1"},
	} {
		if err := tc.send(); err != nil {
			t.Fatal(err)
		}
		if got, fds := receive(t, conn); got != tc.want || len(fds) != 0 {
			t.Errorf("message %q with %d files, want %q", got, len(fds), tc.want)
		}
	}
}

func TestKeep(t *testing.T) {
	conn, s := manager(t)
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	done := make(chan error, 1)
	go func() { done <- s.Keep("tun", file) }() // ends once the barrier is answered
	if got, _ := receive(t, conn); got != "FDSTOREREMOVE=1\nFDNAME=tun" {
		t.Errorf("first message %q, want the old file removed", got)
	}
	got, fds := receive(t, conn)
	if got != "BARRIER=1" || len(fds) != 1 {
		t.Fatalf("second message %q with %d files, want a barrier", got, len(fds))
	}
	select {
	case err := <-done:
		t.Errorf("Keep returned (%v) before the manager had read the removal", err)
	case <-time.After(20 * time.Millisecond):
	}
	if err := unix.Close(fds[0]); err != nil {
		t.Fatal(err)
	}
	got, fds = receive(t, conn)
	if got != "FDSTORE=1\nFDPOLL=0\nFDNAME=tun" || len(fds) != 1 {
		t.Fatalf("third message %q with %d files, want the file", got, len(fds))
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	b := make([]byte, 16)
	if n, err := unix.Read(fds[0], b); err != nil || !bytes.Equal(b[:n], []byte("content")) {
		t.Errorf("the kept file reads %q, %v", b[:n], err)
	}
	_ = unix.Close(fds[0])
}

func TestNobody(t *testing.T) {
	var none *Supervisor
	empty, err := New(func(string) string { return "" }, func(string) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*Supervisor{none, empty} {
		if err := s.Ready(); err != nil {
			t.Error(err)
		}
		if err := s.Keep("tun", os.Stdin); err != nil {
			t.Error(err)
		}
		if err := s.Forget("tun"); err != nil {
			t.Error(err)
		}
		if s.Kept("tun") != nil || s.Watchdog() != 0 {
			t.Error("nobody keeps files or watches")
		}
	}
}

func TestOthersFiles(t *testing.T) {
	env := map[string]string{"LISTEN_PID": strconv.Itoa(os.Getpid() + 1), "LISTEN_FDS": "1", "WATCHDOG_USEC": "9", "WATCHDOG_PID": "1"}
	s, err := New(func(k string) string { return env[k] }, func(string) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	if s.Kept("") != nil || s.Watchdog() != 0 {
		t.Error("took what was meant for another process")
	}
}

func TestCredential(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{"full": "secret\n", "empty": ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(dir, "full"), 0o440); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ dir, name, want, failed string }{
		{dir, "full", "secret", ""},
		{dir, "empty", "", "is empty"},
		{dir, "none", "", "no such file"},
		{dir, "../full", "", "plain name"},
		{"", "full", "", "LoadCredential="},
	} {
		got, err := Credential(tc.dir, tc.name)
		if got != tc.want || (err != nil) != (tc.failed != "") || err != nil && !strings.Contains(err.Error(), tc.failed) {
			t.Errorf("Credential(%q, %q) = %q, %v; want %q, error with %q", tc.dir, tc.name, got, err, tc.want, tc.failed)
		}
	}
}

func FuzzEnvironment(f *testing.F) {
	for _, s := range [][3]string{{"1", "tun", "30000000"}, {"2", "a:b:c", "-1"}, {"99999", "", "x"}, {"3", "a", "9223372036854775807"}} {
		f.Add(s[0], s[1], s[2])
	}
	f.Fuzz(func(t *testing.T, count, names, usec string) {
		got := parseNames(count, names)
		if n, err := strconv.Atoi(count); len(got) > maxFDs || len(got) > 0 && (err != nil || len(got) != n) {
			t.Errorf("%d names for %q", len(got), count)
		}
		if names == "" && slices.ContainsFunc(got, func(s string) bool { return s != "" }) {
			t.Error("names out of nothing")
		}
		if d := parseWatchdog(usec); d < 0 || d > 24*time.Hour {
			t.Errorf("watchdog %v", d)
		}
	})
}
