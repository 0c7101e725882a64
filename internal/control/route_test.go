package control

import (
	"slices"
	"strings"
	"testing"
)

// The options of up arrive; what cannot be read, or is not known, is refused.
func TestUpOptions(t *testing.T) {
	l := &lamp{}
	c, err := Dial(serve(t, l))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.UpWith(t.Context(), UpOptions{Hops: 4, Exit: []string{"DE", "any"}}); err != nil {
		t.Fatal(err)
	}
	if l.up.Hops != 4 || !slices.Equal(l.up.Exit, []string{"DE", "any"}) || !l.on.Load() {
		t.Errorf("the node got %+v, on %v", l.up, l.on.Load())
	}
	for _, body := range []string{`{"hops":"x"}`, `{"speed":3}`, `{"hops":3} {}`, strings.Repeat("x", maxBody+1)} {
		_, err := callWith[Done](t.Context(), c, "POST", "up", strings.NewReader(body))
		if err == nil {
			t.Errorf("up with %.20q was taken", body)
		}
	}
	if _, err := c.NewPath(t.Context()); err != nil {
		t.Errorf("newpath: %v", err)
	}
}
