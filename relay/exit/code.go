package exit

import (
	"context"
	"errors"
	"net"
	"os"
	"syscall"

	"cuttle/relay/session"
	"cuttle/relay/wire"
)

// CodeOf maps an error of opening or using a socket to the code that the client
// gets. What it does not know is host unreachable while opening: nothing was
// exchanged. See streamError for connections that were open.
func CodeOf(err error) wire.Code { return codeOf(err, wire.CodeHostUnreachable) }

func codeOf(err error, otherwise wire.Code) wire.Code {
	if e, ok := errors.AsType[*session.Error](err); ok {
		return e.Code
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		switch errno {
		case syscall.ECONNREFUSED:
			return wire.CodeRefused
		case syscall.EHOSTUNREACH, syscall.EHOSTDOWN:
			return wire.CodeHostUnreachable
		case syscall.ENETUNREACH, syscall.ENETDOWN, syscall.EAFNOSUPPORT:
			return wire.CodeNetworkUnreachable
		case syscall.ETIMEDOUT:
			return wire.CodeTimeout
		case syscall.EACCES, syscall.EPERM: // the exit's own firewall
			return wire.CodeForbidden
		case syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EADDRNOTAVAIL, syscall.EAGAIN:
			return wire.CodeResources
		case syscall.ECONNRESET, syscall.EPIPE, syscall.ECONNABORTED:
			return wire.CodeReset
		}
		return otherwise
	}
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, net.ErrClosed):
		return wire.CodeEnded
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return wire.CodeTimeout
	}
	if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
		return wire.CodeTimeout
	}
	return otherwise
}

// streamError is err as users of an open connection get it: the code and nothing
// of the address. nil and io.EOF are the caller's to sort out.
func streamError(err error) error { return &session.Error{Code: codeOf(err, wire.CodeReset)} }
