package link

import (
	"testing"
	"testing/synctest"

	"cuttle/relay/wire"
)

// told counts how often a lane's owner was told of its end.
type told struct{ closed int }

func (*told) Created([]byte)           {}
func (*told) Refused(wire.Reason)      {}
func (*told) Cells(cells []*wire.Cell) { wire.ReleaseCells(cells) }
func (r *told) Closed()                { r.closed++ }

// TestEvictedAtTheEnd: a lane that is evicted just when its link ends has its owner told,
// whichever comes first.
func TestEvictedAtTheEnd(t *testing.T) {
	for _, late := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			l, _ := bare(true, Config{})
			r := &told{}
			ln, err := l.Open(1, make([]byte, wire.HopMsg1Size), r)
			if err != nil {
				t.Fatal(err)
			}
			if err := ln.wasCreated(make([]byte, wire.HopMsg2Size)); err != nil {
				t.Fatal(err)
			}
			owner := ln.shut() // what evict does first
			if !late {
				l.bereave(owner)
			}
			l.fail(ErrClosed)
			l.endLanes()
			if late {
				l.bereave(owner)
			}
			synctest.Wait()
			if r.closed != 1 {
				t.Errorf("late %v: the owner was told %d times, want once", late, r.closed)
			}
		})
	}
}
