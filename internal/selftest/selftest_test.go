package selftest

import (
	"errors"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestAttemptRows(t *testing.T) {
	for _, c := range []struct {
		name   string
		blind  bool
		err    error
		frames uint64
		want   Result
		answer string
	}{
		{"refused and unseen", false, syscall.EPERM, 0, Good, "refused: operation not permitted"},
		{"accepted and unseen: it went into the tunnel", false, nil, 0, Good, "accepted"},
		{"accepted and seen", false, nil, 2, Leak, "accepted"},
		{"refused, and seen all the same", false, syscall.EPERM, 1, Leak, "refused: operation not permitted"},
		{"unseeable and refused", true, syscall.ENOBUFS, 0, Good, "refused: no buffer space available"},
		{"unseeable and accepted", true, nil, 0, Leak, "accepted"},
		{"not tried", false, &notTried{syscall.EINVAL}, 0, Unknown, "could not be tried: invalid argument"},
	} {
		row := attempt{name: "n", tried: "t", blind: c.blind}.row(c.err, c.frames)
		if row.Result != c.want || row.Answer != c.answer || row.Name != "n" || row.Tried != "t" || row.Wire == "" {
			t.Errorf("%s: got %+v, want %s and %q", c.name, row, c.want, c.answer)
		}
	}
}

func TestVerdict(t *testing.T) {
	row := func(name string, r Result) Row { return Row{Name: name, Result: r} }
	for _, c := range []struct {
		name    string
		devices string
		up      bool
		rows    []Row
		want    Result
		text    string
	}{
		{"all good", "eth0", true, []Row{row("a", Good), row("b", Untested)}, Good, "Nothing leaks: 9 attempts, and none was seen on eth0. Destinations see X."},
		{"one leak", "eth0", true, []Row{row("a", Good), row("b", Leak), row("c", Bad)}, Leak, `THIS MACHINE LEAKS: 1 of 9 attempts got out past Cuttle, the first being "b".`},
		{"a leak while off", "eth0", false, []Row{row("b", Leak)}, Leak, "Cuttle does not say that it is up"},
		{"not well", "eth0", true, []Row{row("a", Good), row("the exit is silent", Bad)}, Bad, "not all is well: the exit is silent."},
		{"blind", "eth0", true, []Row{row("a", Good), row("the captures see", Unknown)}, Unknown, "cannot tell: the captures see."},
		{"no device", "", true, []Row{row("a", Good)}, Unknown, "no physical device"},
	} {
		r := Report{Devices: strings.Fields(c.devices), Rows: c.rows}
		r.judge(c.up, 9, "Destinations see X.")
		if r.Result != c.want || !strings.Contains(r.Verdict, c.text) {
			t.Errorf("%s: got %s, %q; want %s and %q", c.name, r.Result, r.Verdict, c.want, c.text)
		}
	}
}

func TestPlace(t *testing.T) {
	a, b := netip.MustParseAddr("203.0.113.10"), netip.MustParseAddr("10.0.0.1")
	for _, c := range []struct {
		name string
		seen []netip.Addr
		err  error
		want Result
		text string
	}{
		{"elsewhere", []netip.Addr{a}, nil, Good, "Destinations see 203.0.113.10, which is not an address of this machine."},
		{"ours", []netip.Addr{a, b}, nil, Bad, ""},
		{"behind NAT", nil, nil, Good, "does not know its own public address"},
		{"no answer", nil, errors.New("timeout"), Bad, ""},
	} {
		row, sentence := place(c.seen, []netip.Addr{b}, c.err)
		if row.Result != c.want || !strings.Contains(sentence, c.text) || (c.text == "") != (sentence == "") {
			t.Errorf("%s: got %+v, %q", c.name, row, sentence)
		}
	}
}
