//go:build !race

package onion

const raceStride = 1
