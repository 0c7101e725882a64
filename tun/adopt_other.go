//go:build !linux

package tun

import (
	"errors"
	"os"
)

// ErrForeign says that a file is not that of the interface that is wanted.
var ErrForeign = errors.New("tun: the file belongs to something else")

// Adopt is for systems whose service manager keeps files: Linux.
func Adopt(file *os.File, _ string, _ int) (Device, error) {
	return nil, errors.Join(ErrForeign, file.Close())
}
