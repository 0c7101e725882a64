//go:build linux && netns

package lab

import (
	"testing"
	"time"
)

// soaked runs the short version of `cuttle-lab soak`.
func soaked(t *testing.T, s Soak, change func(*Options)) SoakResult {
	t.Helper()
	o := options(t)
	o.Nodes, o.Exits, o.Clients = 5, 2, 2
	change(&o)
	l := up(t, o)
	s.Bytes, s.Seed = 4<<20, 1
	r, err := l.Soak(t.Context(), s)
	if err != nil {
		t.Fatalf("%v (so far: %+v)", err, r)
	}
	t.Logf("%+v", r)
	if (r.Crashes == 0) != (s.Every == 0) || r.Downloads == 0 || r.Spent == 0 || r.Accounts < 4 {
		t.Errorf("%+v: too little has happened to say anything", r)
	}
	return r
}

func TestSoak(t *testing.T) {
	soaked(t, Soak{For: 12 * time.Second, Every: 3 * time.Second}, func(o *Options) { o.Account = true })
}

// TestSoakPaid pays with transfers while relays crash; every wallet holds in the
// end what its ledger says.
func TestSoakPaid(t *testing.T) {
	r := soaked(t, Soak{For: 12 * time.Second, Every: 4 * time.Second}, func(o *Options) { o.Billing, o.Day = true, minDay })
	if r.Transfers == 0 || r.Wallets != 14 {
		t.Errorf("%+v: nothing was paid on the chain, or not all wallets were looked at", r)
	}
}

// TestSoakVouchers pays with vouchers over an endpoint that loses half of all
// calls.
func TestSoakVouchers(t *testing.T) {
	r := soaked(t, Soak{For: 15 * time.Second}, func(o *Options) {
		o.Billing, o.Day, o.Vouchers, o.RPCFail = true, minDay, true, 50
	})
	if r.Transfers+r.Cashed == 0 || r.Wallets != 14 {
		t.Errorf("%+v: nothing was paid on the chain, or not all wallets were looked at", r)
	}
}
