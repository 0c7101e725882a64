package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"go.uber.org/goleak"
)

// The test binary is also the caller of another user (TestRefusedUser).
func TestMain(m *testing.M) {
	if path := os.Getenv("CONTROL_TEST_SOCKET"); path != "" {
		os.Exit(askAsChild(path))
	}
	goleak.VerifyTestMain(m)
}

// askAsChild prints what a status call gives.
func askAsChild(path string) int {
	c, err := Dial(path)
	if err == nil {
		_, err = c.Status(context.Background())
		for _, name := range []string{"status", "circuits", "neighbors", "ledger", "exits", "traffic", "allowed"} {
			if err := c.Watch(context.Background(), name, func([]byte) error { return errors.New("told") }); !errors.Is(err, ErrNotPermitted) {
				fmt.Println("stream of", name, err)
			}
			if e := refusedCall(c, "/v1/"+name); e != "" {
				fmt.Println(e)
			}
		}
		if e := refusedCall(c, "/metrics"); e != "" {
			fmt.Println(e)
		}
	}
	fmt.Printf("permitted=%v refused=%v hint=%q\n", err == nil, errors.Is(err, ErrNotPermitted), Hint(err))
	return 0
}

// refusedCall asks and describes an answer that tells more than a refusal.
func refusedCall(c *Client, path string) string {
	resp, err := c.http.Get("http://cuttle" + path)
	if err != nil {
		return path + ": " + err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusForbidden || !strings.HasPrefix(string(body), `{"schema":1,"error":"not permitted","hint":"run it as root`) {
		return fmt.Sprintf("%s: %d %s", path, resp.StatusCode, body)
	}
	return ""
}

// lamp is the smallest node: a switch.
type lamp struct {
	on   atomic.Bool
	lock atomic.Bool
	fail error
	up   UpOptions
}

func (l *lamp) Status() Status {
	if l.on.Load() {
		return Status{State: StateUp, Node: "n", PID: 7}
	}
	return Status{State: StateOff, Node: "n", PID: 7}
}
func (l *lamp) Circuits() []Circuit        { return nil }
func (l *lamp) Neighbors() []Neighbor      { return []Neighbor{{Node: "n2", State: LinkUp}} }
func (l *lamp) Ledger() Ledger             { return Ledger{Mode: "paid", TotalOwed: "0.5"} }
func (l *lamp) Exits() []Exit              { return []Exit{{Node: "x", Reachable: true}} }
func (l *lamp) Traffic() Traffic           { return Traffic{Sent: 5} }
func (l *lamp) Allowed() Allowed           { return Allowed{TUN: "t0"} }
func (l *lamp) Up(context.Context) error   { l.on.Store(true); return l.fail }
func (l *lamp) Down(context.Context) error { l.on.Store(false); return l.fail }
func (l *lamp) Lock(_ context.Context, on bool) error {
	l.lock.Store(on)
	return l.fail
}
func (l *lamp) Pay(context.Context) error     { return l.fail }
func (l *lamp) NewPath(context.Context) error { return l.fail }
func (l *lamp) UpWith(_ context.Context, o UpOptions) error {
	l.up = o
	l.on.Store(true)
	return l.fail
}

// serve runs a server for the time of the test and gives its socket.
func serve(t *testing.T, node Node) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "run", "control.sock")
	ln, err := Listen(path, "")
	if err != nil {
		t.Fatal(err)
	}
	srv, err := NewServer(node, "")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- srv.Run(ctx, ln) }() // ends with stop
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("run: %v", err)
		}
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the socket is still there after the end: %v", err)
		}
	})
	return path
}

func dial(t *testing.T, path string) *Client {
	t.Helper()
	c, err := Dial(path)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestCalls(t *testing.T) {
	l := new(lamp)
	c, ctx := dial(t, serve(t, l)), t.Context()
	for _, on := range []bool{true, false} {
		if _, err := c.Lock(ctx, on); err != nil || l.lock.Load() != on {
			t.Errorf("lock %v: got %v, %v", on, l.lock.Load(), err)
		}
	}
	up, err := c.Up(ctx)
	if want := (Done{Schema, StateUp}); err != nil || up != want {
		t.Errorf("up: got %v, %v; want %v", up, err, want)
	}
	st, err := c.Status(ctx)
	want := Status{Schema: Schema, State: StateUp, Node: "n", PID: 7, Roles: []string{}, Listen: []Listening{}, Problems: []Problem{}, Seen: []string{}}
	if err != nil || !reflect.DeepEqual(st, want) {
		t.Errorf("status: got %+v, %v; want %+v", st, err, want)
	}
	down, err := c.Down(ctx)
	if want := (Done{Schema, StateOff}); err != nil || down != want {
		t.Errorf("down: got %v, %v; want %v", down, err, want)
	}
	circuits, err := c.Circuits(ctx)
	if err != nil || circuits.Circuits == nil || len(circuits.Circuits) != 0 {
		t.Errorf("circuits: got %v, %v; want an empty list, not null", circuits, err)
	}
	neighbors, err := c.Neighbors(ctx)
	if err != nil || len(neighbors.Neighbors) != 1 || neighbors.Schema != Schema {
		t.Errorf("neighbors: got %v, %v; want one", neighbors, err)
	}
	ledger, err := c.Ledger(ctx)
	if err != nil || ledger.TotalOwed != "0.5" || ledger.Accounts == nil {
		t.Errorf("ledger: got %v, %v", ledger, err)
	}
	if _, err := c.Pay(ctx); err != nil {
		t.Errorf("pay: %v", err)
	}
}

func TestNodeRefuses(t *testing.T) {
	for _, c := range []struct {
		name   string
		fail   error
		status int
		text   string
		hint   string
	}{
		{"with a hint", fmt.Errorf("up: %w", &Error{Status: 409, Text: "no exit", Hint: "name one"}), 409, "up: no exit", "name one"},
		{"plain error", errors.New("broken"), 500, "broken", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := dial(t, serve(t, &lamp{fail: c.fail})).Up(t.Context())
			var e *Error
			if !errors.As(err, &e) || e.Status != c.status || e.Text != c.text || e.Hint != c.hint {
				t.Errorf("got %#v, want status %d, %q and hint %q", err, c.status, c.text, c.hint)
			}
		})
	}
}

// TestStrangeCalls: paths, methods and bodies that do not exist are refused in
// JSON, and the server lives on.
func TestStrangeCalls(t *testing.T) {
	path := serve(t, new(lamp))
	c := dial(t, path)
	for _, q := range []struct {
		method, path, body string
		want               int
	}{
		{"GET", "/", "", 404},
		{"GET", "/v1/secrets", "", 404},
		{"GET", "/v1/up", "", 404},
		{"DELETE", "/v1/status", "", 404},
		{"POST", "/v1/down", "{}", 400},
		{"POST", "/v1/up", strings.Repeat("x", maxBody+1), 400},
	} {
		req, err := http.NewRequestWithContext(t.Context(), q.method, "http://cuttle"+q.path, strings.NewReader(q.body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		var f Failure
		err = json.NewDecoder(resp.Body).Decode(&f)
		if err := errors.Join(err, resp.Body.Close()); err != nil || resp.StatusCode != q.want || f.Text == "" || f.Schema != Schema {
			t.Errorf("%s %s: got %d %+v, %v; want %d and why", q.method, q.path, resp.StatusCode, f, err, q.want)
		}
	}
	if st, err := c.Status(t.Context()); err != nil || st.State != StateOff {
		t.Errorf("status afterwards: got %v, %v", st.State, err)
	}
	raw, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := raw.Write([]byte("\x00\xff nonsense\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(raw)
	if err := errors.Join(err, raw.Close()); err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 400") {
		t.Errorf("nonsense: got %q, %v; want 400", answer, err)
	}
}

func TestListenModes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b", "control.sock")
	ln, err := Listen(path, "")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]os.FileMode{path: os.ModeSocket | 0o660, filepath.Dir(path): os.ModeDir | 0o750} {
		if info, err := os.Stat(name); err != nil || info.Mode() != want {
			t.Errorf("%s: got %v, %v; want %v", filepath.Base(name), info.Mode(), err, want)
		}
	}
	if _, err := Listen(path, ""); err == nil || !strings.Contains(err.Error(), "another daemon answers") {
		t.Errorf("listen where somebody answers: got %v, want an error", err)
	}
	c, err := net.Dial("unix", path) // it was not harmed
	if err := errors.Join(err, c.Close(), ln.Close()); err != nil {
		t.Error(err)
	}
}

func TestStaleSocketIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "control.sock")
	old, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	old.SetUnlinkOnClose(false) // as after SIGKILL
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Dial(path); !errors.Is(err, ErrNotRunning) {
		t.Errorf("dial a stale socket: got %v, want ErrNotRunning", err)
	}
	ln, err := Listen(path, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := ln.Close(); err != nil {
		t.Error(err)
	}
}

func TestListenRefused(t *testing.T) {
	folder := t.TempDir()
	file := filepath.Join(folder, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ path, group string }{
		"a file":           {file, ""},
		"a path too long":  {filepath.Join(folder, strings.Repeat("x", 120)), ""},
		"no such group":    {filepath.Join(folder, "s"), "no-such-group-here"},
		"folder is a file": {filepath.Join(file, "s"), ""},
	} {
		if _, err := Listen(c.path, c.group); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
	if got, err := os.ReadFile(file); err != nil || string(got) != "precious" {
		t.Errorf("the file was touched: %q, %v", got, err)
	}
}

func TestAccess(t *testing.T) {
	const own, group = 990, 500
	byBook := func(uid, g uint32) bool { return uid == 1002 && g == group }
	for _, c := range []struct {
		name  string
		group string
		peer  peer
		want  bool
	}{
		{"root", "", peer{uid: 0, groups: []uint32{0}}, true},
		{"own user", "", peer{uid: own, groups: []uint32{own}}, true},
		{"other user, no group", "", peer{uid: 1000, groups: []uint32{1000}}, false},
		{"root's group is not root", "", peer{uid: 1000, groups: []uint32{0}}, false},
		{"no group configured, group number 0 of a zero value", "", peer{uid: 1000, groups: []uint32{0, 500}}, false},
		{"primary group", "ops", peer{uid: 1000, groups: []uint32{group}}, true},
		{"one of several groups", "ops", peer{uid: 1000, groups: []uint32{7, group}}, true},
		{"by the user database", "ops", peer{uid: 1002, groups: []uint32{7}}, true},
		{"other group", "ops", peer{uid: 1001, groups: []uint32{7}}, false},
	} {
		a := access{uid: own, group: group, groupName: c.group, member: byBook}
		if got := a.allows(c.peer); got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

// TestRefusedUser calls as another user, with the folder open to everybody, so
// that only the check of credentials stands in the way. As an ordinary user, who
// cannot become somebody else, the server is told instead that it runs as another.
func TestRefusedUser(t *testing.T) {
	folder, err := os.MkdirTemp("", "control")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(folder) }) // the end of the test
	path := filepath.Join(folder, "s")
	ln, err := Listen(path, "")
	if err != nil {
		t.Fatal(err)
	}
	srv, err := NewServer(new(lamp), "")
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe)
	if os.Getuid() == 0 {
		copied := filepath.Join(folder, "caller")
		if err := errors.Join(copyFile(exe, copied), os.Chmod(folder, 0o755), os.Chmod(path, 0o666)); err != nil {
			t.Fatal(err)
		}
		cmd = exec.CommandContext(t.Context(), copied)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	} else {
		srv.acl.uid++
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- srv.Run(ctx, ln) }() // ends with stop
	cmd.Env = []string{"CONTROL_TEST_SOCKET=" + path}
	cmd.Dir = folder
	out, err := cmd.CombinedOutput()
	stop()
	if err := errors.Join(err, <-ended); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if got, want := string(out), "permitted=false refused=true hint=\"run it as root"; !strings.HasPrefix(got, want) {
		t.Errorf("got %q, want %s...", got, want)
	}
}

func copyFile(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o755)
}

func TestDialNobody(t *testing.T) {
	_, err := Dial(filepath.Join(t.TempDir(), "none"))
	if !errors.Is(err, ErrNotRunning) || Hint(err) == "" {
		t.Errorf("got %v (hint %q), want ErrNotRunning and how to start it", err, Hint(err))
	}
}
