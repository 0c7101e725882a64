//go:build linux && netns

package lab

import (
	"testing"
	"time"
)

// TestSoak is the short version of `cuttle-lab soak`.
func TestSoak(t *testing.T) {
	o := options(t)
	o.Nodes, o.Exits, o.Clients, o.Account = 5, 2, 2, true
	l := up(t, o)
	r, err := l.Soak(t.Context(), Soak{For: 12 * time.Second, Every: 3 * time.Second, Bytes: 4 << 20, Seed: 1})
	if err != nil {
		t.Fatalf("%v (so far: %+v)", err, r)
	}
	t.Logf("%+v", r)
	if r.Crashes == 0 || r.Downloads == 0 || r.Spent == 0 || r.Accounts < 4 {
		t.Errorf("%+v: too little has happened to say anything", r)
	}
}
