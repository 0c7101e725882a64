package main

import (
	"fmt"
	"os"
	"runtime/pprof"
)

// profileVariable names the file for a CPU profile. Only who starts the daemon
// can set it; nobody can ask a running daemon for a profile.
const profileVariable = "CUTTLE_CPUPROFILE"

// profile collects a CPU profile until end is called, which writes it to a new
// file that only we can read. Without a file name it does nothing. A profile
// names functions and counts samples; no address, key or size is in it.
func profile(file string) (end func() error, err error) {
	if file == "" {
		return func() error { return nil }, nil
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", profileVariable, err)
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("start CPU profile: %w", err)
	}
	return func() error {
		pprof.StopCPUProfile()
		if err := f.Close(); err != nil {
			return fmt.Errorf("write CPU profile: %w", err)
		}
		return nil
	}, nil
}
