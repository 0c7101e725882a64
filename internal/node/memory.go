package node

// What one purpose may take when the configuration does not say: a part of the
// machine's memory within bounds, bytes.
const (
	memoryPart  = 8
	memoryLeast = 32 << 20
	memoryMost  = 256 << 20
	sessionMost = 32 << 20 // received by one session of an exit: half of it is one fast stream's, over links of 25 ms with losses 200 Mbit/s
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

// memoryShare is what one purpose may take, in bytes, of the configuration (relay.memory,
// MiB) or of the machine's memory (0: not known): cells that wait; what the sessions of this
// client, or those of this exit, have sent and nobody has acknowledged; what those of this
// exit have received and nobody has taken.
func memoryShare(configured int, machine uint64) int64 {
	if configured > 0 {
		return int64(configured) << 20
	}
	return int64(min(max(machine/memoryPart, memoryLeast), memoryMost))
}

// sessionShare is what one session of an exit may take for what it has received, of what
// all may.
func sessionShare(all int64) int { return int(min(all/2, sessionMost)) }
