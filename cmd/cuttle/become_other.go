//go:build !linux

package main

import "errors"

var errLinuxOnly = errors.New("programs are told apart on Linux only")

func joinBy(string) error { return errLinuxOnly }

func becomeWith([]string, []string, func(string) string) error { return errLinuxOnly }
