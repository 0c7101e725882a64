package billing

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"cuttle/relay/wire"
)

const childEnv = "CUTTLE_BILLING_CHILD"

// child is the process that TestKill kills: two Books whose ledgers lie in the
// given folder, linked, with traffic that never ends. It prints what both
// hold of either side's cells.
func child() bool {
	dir := os.Getenv(childEnv)
	if dir == "" {
		return false
	}
	open := func(self byte) *Book {
		b, err := Open(Config{Path: filepath.Join(dir, strconv.Itoa(int(self))), Self: testID(self), MarkerCells: killMarker})
		if err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		return b
	}
	l := join(new(testing.T), open(1), open(2))
	l.run()
	for { // until it is killed
		l.ends[0].mu.Lock()
		queued := len(l.ends[0].cells)
		l.ends[0].mu.Unlock()
		if queued < 100 {
			l.ends[0].send(WePay, 7, 20)
			l.ends[1].send(TheyPay, 7, 20)
			continue
		}
		fmt.Println(l.ends[0].held(), l.ends[1].held())
		time.Sleep(time.Millisecond)
	}
}

// held is what both ledgers hold of the cells that this end has sent: the other
// side wrote it down before it answered.
func (e *memEnd) held() uint64 {
	e.n.mu.Lock()
	defer e.n.mu.Unlock()
	if e.n.base == nil {
		return 0
	}
	return uint64(e.n.base[Sent].sum() + e.n.agreed[Sent].sum())
}

func (c *counts) sum() (n wire.Cells) {
	for p := range c {
		for _, cells := range c[p] {
			n += cells
		}
	}
	return n
}

const killMarker = 200

// TestKill kills a process with SIGKILL in the middle of traffic, again and
// again, and looks at its ledgers: what it had called agreed is there, the
// checks pass, and the two ledgers come to the same counts when they meet.
func TestKill(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var last [2]uint64
	for round := range 6 {
		cmd := exec.Command(exe, "-test.run=^$")
		cmd.Env = append(os.Environ(), childEnv+"="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for i := 0; (i < 40+13*round || last[0] == 0) && lines.Scan(); i++ {
			var sent, received uint64
			if _, err := fmt.Sscan(lines.Text(), &sent, &received); err != nil {
				t.Errorf("child says %q", lines.Text())
				break
			}
			if sent == 0 || received == 0 {
				continue
			}
			if sent < last[0] || received < last[1] {
				t.Errorf("round %d: agreed counts went from %v to %d and %d", round, last, sent, received)
			}
			last = [2]uint64{sent, received}
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err == nil {
			t.Fatal("child ended by itself")
		}
	}
	if last[0] == 0 {
		t.Fatal("nothing was agreed before the kills")
	}
	var books [2]*Book
	for i, self := range []byte{1, 2} {
		books[i], err = Open(Config{Path: filepath.Join(dir, strconv.Itoa(int(self))), Self: testID(self)}) // runs the checks
		if err != nil {
			t.Fatal(err)
		}
		defer books[i].Close()
	}
	var kept totals
	if err := books[0].ledger.update(context.Background(), func(tx *tx) (err error) {
		kept, err = tx.totals(1)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if kept[Sent][WePay][7] < wire.Cells(last[0]) || kept[Received][WePay][7] < wire.Cells(last[1]) {
		t.Errorf("ledger holds %d and %d cells, agreed were %v", kept[Sent][WePay][7], kept[Received][WePay][7], last)
	}
	l := join(t, books[0], books[1])
	l.run()
	defer l.cut()
	flushBoth(t, books[0], books[1])
	eventually(t, "both ledgers are equal", func() bool {
		a, b := report(t, books[0]).Neighbors[0], report(t, books[1]).Neighbors[0]
		return mirrored(a.Counts, b.Counts) && a.WeOwe == b.TheyOwe && a.WeOwe > 0
	})
	for _, b := range books {
		if r := report(t, b).Neighbors[0]; r.Dispute != "" {
			t.Errorf("dispute after the kills: %s", r.Dispute)
		}
	}
}
