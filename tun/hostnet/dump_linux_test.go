package hostnet

import (
	"errors"
	"testing"

	"github.com/vishvananda/netlink"
)

func TestWhole(t *testing.T) {
	no := errors.New("no")
	for _, test := range []struct {
		interrupted int
		err, want   error
	}{{0, nil, nil}, {dumps - 1, nil, nil}, {dumps, nil, errChanging}, {2, no, no}} {
		left := test.interrupted
		got, err := whole(func() ([]int, error) {
			if left--; left >= 0 {
				return []int{1}, netlink.ErrDumpInterrupted
			}
			return []int{1, 2}, test.err
		})
		if !errors.Is(err, test.want) || err == nil && len(got) != 2 {
			t.Errorf("after %d interruptions: %v, %v; want %v", test.interrupted, got, err, test.want)
		}
	}
}
