//go:build race

package onion

// raceStride thins out tests that try every byte: the race detector makes each
// try many times slower and has nothing to find in them.
const raceStride = 11
