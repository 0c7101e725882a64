package control

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// purse is a lamp with a wallet that was used elsewhere.
type purse struct {
	lamp
	confirmed []string
}

func (p *purse) Balances(context.Context) (Balances, error) { return Balances{}, nil }
func (p *purse) Taken(context.Context) ([]Taken, string, error) {
	return []Taken{{Nonce: 4, Tx: "0x1"}}, "d1", nil
}
func (p *purse) Resume(_ context.Context, digest string) error {
	p.confirmed = append(p.confirmed, digest)
	return nil
}

// TestResumeSaysWhatWasShown: the digest of what was lost comes with the list and
// arrives with the confirmation; a call that has none, or something besides, is refused.
func TestResumeSaysWhatWasShown(t *testing.T) {
	p := &purse{}
	c := dial(t, serve(t, p))
	all, err := c.Taken(t.Context())
	if err != nil || all.Digest != "d1" || len(all.Taken) != 1 {
		t.Fatalf("lost are %+v, %v", all, err)
	}
	if _, err := c.Resume(t.Context(), all.Digest); err != nil {
		t.Fatal(err)
	}
	for _, body := range []string{
		"", " ", "null", "{}", `""`, `"d1"`, `["d1"]`, `{"digest":""}`, `{"digest":null}`, `{"digest":7}`, `{"digest":["d1"]}`, `{"digest":"d1"`,
		`{"digest":"d1"}}`, `{"digest":"d1"} {}`, `{"digest":"d1"}]`, `{"digest":"d1"}x`, `{"digest":"d1","all":true}`, `{"shown":"d1"}`, "\x00",
		`{"digest":"` + strings.Repeat("d", maxBody) + `"}`, `{"digest":"d1"}` + strings.Repeat(" ", maxBody),
	} {
		_, err := callWith[Done](t.Context(), c, http.MethodPost, "wallet/resume", strings.NewReader(body))
		var e *Error
		if !errors.As(err, &e) || e.Status != http.StatusBadRequest || !strings.Contains(e.Text, "what was shown") || e.Hint == "" {
			t.Errorf("resume with %.40q: %v, want a refusal that says what is missing", body, err)
		}
	}
	if _, err := c.Resume(t.Context(), ""); err == nil {
		t.Error("a confirmation of nothing was taken")
	}
	if !slices.Equal(p.confirmed, []string{"d1"}) {
		t.Errorf("the node was told %q, want what was shown, once", p.confirmed)
	}
}
