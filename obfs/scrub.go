package obfs

import (
	"errors"
	"net"
)

// scrubbed shows text and still answers errors.Is and errors.As.
type scrubbed struct {
	text  string
	cause error
}

func (e *scrubbed) Error() string   { return e.text }
func (e *scrubbed) Unwrap() error   { return e.cause }
func (e *scrubbed) Timeout() bool   { return isTimeout(e.cause) }
func (e *scrubbed) Temporary() bool { return isTimeout(e.cause) }

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

// Scrub gives an error with the same identity (errors.Is, errors.As, Timeout)
// whose text has no network address and no host name: those that package net
// puts there are left out. Other errors and nil come back unchanged.
func Scrub(err error) error {
	if err == nil {
		return nil
	}
	return scrub(err)
}

func scrub(err error) error {
	var (
		op      *net.OpError
		name    *net.DNSError
		addr    *net.AddrError
		parse   *net.ParseError
		invalid net.InvalidAddrError
		unknown net.UnknownNetworkError
	)
	switch {
	case errors.As(err, &op):
		text := op.Op
		if op.Err != nil {
			text += ": " + scrub(op.Err).Error()
		}
		return &scrubbed{text, err}
	case errors.As(err, &name):
		text := "lookup: server does not answer properly"
		switch {
		case name.IsNotFound:
			text = "lookup: no such host"
		case name.IsTimeout:
			text = "lookup: timed out"
		}
		return &scrubbed{text, err}
	case errors.As(err, &addr):
		return &scrubbed{"address: " + addr.Err, err}
	case errors.As(err, &parse):
		return &scrubbed{"address: not a " + parse.Type, err}
	case errors.As(err, &invalid), errors.As(err, &unknown):
		return &scrubbed{"address: not usable", err}
	}
	return err
}
