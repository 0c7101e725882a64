package node

// The budget of cells that wait, when the configuration does not say: a part of
// the machine's memory within bounds, bytes.
const (
	memoryPart  = 8
	memoryLeast = 32 << 20
	memoryMost  = 256 << 20
)

// relayMemory is the budget for cells that wait, in bytes: of the configuration
// (MiB), or a part of the machine's memory (0: not known).
func relayMemory(configured int, machine uint64) int64 {
	if configured > 0 {
		return int64(configured) << 20
	}
	return int64(min(max(machine/memoryPart, memoryLeast), memoryMost))
}
