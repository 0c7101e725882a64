// Package demo shows Cuttle at work on one machine: it builds a lab with a
// chain, lets a client's daemon take over its traffic, downloads a file with an
// unmodified program, has everybody pay, and checks every claim of the table it
// prints against a second source.
//
// It believes nobody: counts are compared between both neighbors, payments with
// the chain itself, the download with the server's digest, and a capture that
// must find nothing with the same capture where it must find everything. It
// leaves nothing behind, also when it is interrupted. cmd/cuttle-lab calls Run,
// once; there is nothing to lock.
package demo
