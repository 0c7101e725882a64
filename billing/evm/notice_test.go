package evm

import (
	"context"
	"encoding/json"
	"math/big"
	"strings"
	"testing"

	"github.com/ethereum/go-ethereum/common/hexutil"
)

// channelAnswer answers channels(): at the head with one notice, below with another.
func channelAnswer(head, deep int64) func([]json.RawMessage) any {
	return func(p []json.RawMessage) any {
		var block string
		closeAt := deep
		if len(p) > 1 && json.Unmarshal(p[1], &block) == nil && block == hexutil.EncodeUint64(100) {
			closeAt = head
		}
		s := "0x"
		for _, n := range []int64{1000, 10, 3, closeAt, 7} {
			s += strings.TrimPrefix(word(n), "0x")
		}
		return s
	}
}

// TestNotice: a notice counts when two endpoints show it, where there are two, or
// one does and it is deep enough.
func TestNotice(t *testing.T) {
	for _, c := range []struct {
		name  string
		heads []int64 // the notice that each endpoint shows at its head
		deep  int64
		want  uint64
	}{
		{"one, alone", []int64{9}, 0, 9},
		{"one of two", []int64{9, 0}, 0, 0},
		{"the other of two", []int64{0, 9}, 0, 0},
		{"both", []int64{9, 9}, 0, 9},
		{"hidden by one, new", []int64{0, 9}, 0, 0},
		{"hidden by one, deep", []int64{0, 9}, 9, 9},
		{"put off by one", []int64{1 << 62, 9}, 9, 9},
		{"taken back", []int64{0, 0}, 9, 0},
		{"none", []int64{0, 0}, 0, 0},
	} {
		var urls []string
		for _, head := range c.heads {
			f := startFake(t, 7)
			f.set("eth_call", channelAnswer(head, c.deep))
			urls = append(urls, f.url)
		}
		h := NewHub(testClient(t, nil, urls...), Address{4})
		deep, _, views, err := h.Look(context.Background(), []Pair{{Address{1}, Address{2}}}, 3)
		if err != nil || deep.Number != 98 || len(views) != 1 || views[0].CloseAt != c.want || views[0].Deep.Deposit.Cmp(big.NewInt(1000)) != 0 {
			t.Errorf("%s: %+v at %+v, %v; want a notice at %d", c.name, views, deep, err, c.want)
		}
	}
	// What no ledger could hold is none.
	f := startFake(t, 7)
	f.set("eth_call", func(p []json.RawMessage) any {
		s, _ := channelAnswer(0, 0)(p).(string)
		return s[:2+3*64] + strings.Repeat("0", 48) + strings.Repeat("f", 16) + s[2+4*64:]
	})
	if _, _, views, err := NewHub(testClient(t, nil, f.url), Address{4}).Look(context.Background(), []Pair{{Address{1}, Address{2}}}, 3); err == nil {
		t.Errorf("a notice beyond 63 bits is taken: %+v", views)
	}
}
