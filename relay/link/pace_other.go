//go:build !linux

package link

import "syscall"

// readSending knows of no connection under BBR on this system.
func readSending(syscall.RawConn) (s sending, ok bool) { return s, false }

func boundSending(syscall.RawConn, uint64) {}

func restartSending(syscall.RawConn) {}

func setSystemOptions(int) {}

func widenSending(syscall.RawConn) {}
