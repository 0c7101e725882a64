package node

// The budget of cells that wait, when the configuration does not say: a part of
// the machine's memory within bounds, bytes.
const (
	memoryPart  = 8
	memoryLeast = 32 << 20
	memoryMost  = 256 << 20
)

// The connections that an exit holds, when there is memory for them: an idle one
// costs flowMemory bytes, the kernel's part included, about.
const (
	flowMemory  = 16 << 10
	flowsLeast  = 4096
	flowsMost   = 32_768
	clientFlows = 16_384 // of one session; the stack's own limits come first
)

// exitFlows is how many connections an exit holds at once; a session gets half of
// them at most.
func exitFlows(machine uint64) int {
	return int(min(max(machine/memoryPart/flowMemory, flowsLeast), flowsMost))
}

// relayMemory is the budget for cells that wait, in bytes: of the configuration
// (MiB), or a part of the machine's memory (0: not known).
func relayMemory(configured int, machine uint64) int64 {
	if configured > 0 {
		return int64(configured) << 20
	}
	return memoryShare(machine)
}

// memoryShare is what one purpose may take of the machine's memory, in bytes: cells that
// wait; what the sessions of this client, or those of this exit, have sent and nobody has
// acknowledged; what those of this exit have received and nobody has taken.
func memoryShare(machine uint64) int64 {
	return int64(min(max(machine/memoryPart, memoryLeast), memoryMost))
}
