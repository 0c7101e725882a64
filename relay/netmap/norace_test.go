//go:build !race

package netmap

const raceStride = 1
