package evm

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"strings"
	"unicode"

	"github.com/ethereum/go-ethereum/rpc"
)

// scrub takes URLs (which may hold API keys) and addresses out of network errors,
// and makes an endpoint's own words fit to be shown. What errors.Is and errors.As
// find stays.
func scrub(err error) error {
	var u *url.Error
	wire := errors.As(err, &u)
	if wire {
		err = u.Err
	}
	var op *net.OpError
	if errors.As(err, &op) {
		return fmt.Errorf("%s: %w", op.Op, op.Err)
	}
	var dns *net.DNSError
	if errors.As(err, &dns) {
		return errors.New("name of the endpoint does not resolve")
	}
	var answer rpc.Error
	var page rpc.HTTPError
	if wire || errors.As(err, &answer) || errors.As(err, &page) { // net/http quotes lines that are none
		return words{err}
	}
	return err
}

// words is an error that an endpoint has written: of any length, and with
// whatever in it.
type words struct{ error }

func (w words) Error() string { return tame(w.error.Error()) }
func (w words) Unwrap() error { return w.error }

const mostWords = 240 // bytes of an endpoint's text that are shown

// secrets are what must not be shown: URLs, IP addresses, and anything that may be
// a key, an address or a hash.
var secrets = regexp.MustCompile(`(?i)\b(?:https?|wss?)://\S+|\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b|\[?[0-9a-f]*:[0-9a-f:]*:[0-9a-f]*\]?(?::\d+)?|[0-9a-z_+/=-]{20,}`)

// tame cuts a text, and takes out of it what must not be shown and what a terminal
// would obey.
func tame(text string) string {
	const enough = 4 * mostWords
	long := len(text) > enough
	if long {
		text = text[:enough]
	}
	text = strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, text)
	parts := strings.Fields(text)
	if long && len(parts) > 0 {
		parts = parts[:len(parts)-1] // it may be a part of what would be taken out
	}
	text = secrets.ReplaceAllStringFunc(strings.Join(parts, " "), func(s string) string {
		if !strings.ContainsAny(s, "0123456789:") {
			return s // the name of a method
		}
		return "…"
	})
	if len(text) > mostWords {
		return strings.ToValidUTF8(text[:mostWords], "") + "…"
	}
	return text
}
