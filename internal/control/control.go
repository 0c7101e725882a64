// Package control is the local API of a node: HTTP and JSON over a unix socket,
// the server that cuttled runs and the client that cuttle and cuttle-lab use.
// api.go holds every JSON type and its schema version.
//
// It knows nothing of how a node works: internal/node implements Node. It never
// listens on a network, and it answers nobody but root, the daemon's own user and
// the members of one configured group; the kernel says who is calling
// (SO_PEERCRED, LOCAL_PEERCRED). A Server is used by one Run; a Client by any
// number of goroutines. Neither holds a lock of its own.
package control

import (
	"context"
	"errors"
	"net/http"
)

// Node is what the server asks. Methods are called from several goroutines at
// once and return soon; Up, Down and Pay start something and do not wait for its
// outcome, which Status and Ledger show. Their errors may be *Error to carry a
// hint.
type Node interface {
	Status() Status
	Circuits() []Circuit
	Neighbors() []Neighbor
	Ledger() Ledger
	Exits() []Exit
	Traffic() Traffic
	Allowed() Allowed

	Up(ctx context.Context) error   // capture this machine's traffic
	Down(ctx context.Context) error // stop, and put the machine back as it was
	// Lock turns the lock, which keeps the machine closed while the client is off,
	// also after the daemon's end. It returns when the machine is closed, or open.
	Lock(ctx context.Context, on bool) error
	Pay(ctx context.Context) error // scan and settle now

	UpWith(ctx context.Context, o UpOptions) error // Up, over paths as the options say
	NewPath(ctx context.Context) error             // new flows use new circuits
}

// What a Client's errors answer to with errors.Is.
var (
	ErrNotRunning   = errors.New("no daemon answers on the control socket")
	ErrNotPermitted = errors.New("not permitted")
)

// Error is a refusal with advice. A Node returns one to choose the text and the
// HTTP status; a Client returns one for every answer that is not 200.
type Error struct {
	Status int    // HTTP status, 0 for 500
	Text   string // what is wrong, lower case, no full stop
	Hint   string // what to do about it, may be empty
	cause  error
}

func (e *Error) Error() string { return e.Text }

// Unwrap gives ErrNotRunning or ErrNotPermitted where they apply.
func (e *Error) Unwrap() error { return e.cause }

// NotPermitted is a refusal that answers to ErrNotPermitted.
func NotPermitted(text, hint string) error {
	return &Error{Status: http.StatusForbidden, Text: text, Hint: hint, cause: ErrNotPermitted}
}

// Hint gives the advice that an error carries, or "".
func Hint(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Hint
	}
	return ""
}
