package node

import "golang.org/x/sys/unix"

// machineMemory is how much memory this machine has, bytes; 0: not known.
func machineMemory() uint64 {
	var i unix.Sysinfo_t
	if unix.Sysinfo(&i) != nil {
		return 0
	}
	return uint64(i.Totalram) * uint64(i.Unit) //nolint:unconvert // 32 bits on some systems
}
