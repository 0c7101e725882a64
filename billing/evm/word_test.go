package evm

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/ethereum/go-ethereum/rpc"
)

// endpointError is what an endpoint answers instead of a result.
type endpointError string

func (e endpointError) Error() string  { return string(e) }
func (e endpointError) ErrorCode() int { return -32000 }

// TestEndpointsWords: what an endpoint writes is short, has no secrets and nothing
// that a terminal obeys, and says what it said.
func TestEndpointsWords(t *testing.T) {
	long := strings.Repeat("very long ", 1<<18)
	for _, c := range []struct{ in, want string }{
		{"nonce too low: next nonce 7, tx nonce 6", "nonce too low: next nonce 7, tx nonce 6"},
		{"the method eth_getTransactionReceipt does not exist", "the method eth_getTransactionReceipt does not exist"},
		{"see https://rpc.example.org/v2/0123456789abcdef?key=1 now", "see … now"},
		{"your address 203.0.113.7:4711 is blocked", "your address … is blocked"},
		{"your address 2001:db8::7 is blocked", "your address … is blocked"},
		{"key Zm9vYmFyMDEyMzQ1Njc4OTAx is unknown", "key … is unknown"},
		{"insufficient funds for gas * price + value: address 0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266 have 0 want 1", "insufficient funds for gas * price + value: address … have 0 want 1"},
		{"a\x1b[31mred\r\nline\xff", "a [31mred line"},
		{long, strings.Repeat("very long ", mostWords/10) + "…"},
		{strings.Repeat("é", mostWords), strings.Repeat("é", mostWords/2) + "…"},
		{strings.Repeat("x", 1<<20) + "0", ""},
	} {
		err := fmt.Errorf("send payment: %w", scrub(fmt.Errorf("call: %w", endpointError(c.in))))
		want := "send payment: call: " + c.want
		if len(c.in) > mostWords || c.want == "" { // cut with what comes before it
			want = "send payment: "
		}
		if got := err.Error(); !strings.HasPrefix(got, want) || len(c.in) <= mostWords && got != want || len(got) > mostWords+40 {
			t.Errorf("%.60q is shown as %q, want %q", c.in, got, want)
		}
		var said rpc.Error
		if !errors.As(err, &said) || said.ErrorCode() != -32000 {
			t.Errorf("%.60q is no answer of an endpoint any more", c.in)
		}
	}
	page := scrub(rpc.HTTPError{StatusCode: 403, Status: "403 Forbidden", Body: []byte("<a href=\"https://example.org/k/0123456789\">" + long)})
	if got := page.Error(); !strings.HasPrefix(got, "403 Forbidden") || strings.Contains(got, "example") || len(got) > mostWords+3 {
		t.Errorf("a page is shown as %q", got)
	}
	if own := fmt.Errorf("%w: no contract at 0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266", ErrWrongToken); scrub(own).Error() != own.Error() {
		t.Errorf("our own words are changed: %q", scrub(own))
	}
}
