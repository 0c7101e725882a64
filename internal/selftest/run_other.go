//go:build !linux

package selftest

import (
	"context"
	"errors"
)

// Run is for Linux.
func Run(context.Context, Config) (Report, error) {
	return Report{}, errors.New("selftest: not on this system yet")
}
