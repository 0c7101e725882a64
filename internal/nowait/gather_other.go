//go:build !linux

package nowait

import "net"

// Gather writes many buffers at a time to a TCP connection.
type Gather struct{ c *net.TCPConn }

// NewGather writes to the connection.
func NewGather(c *net.TCPConn) *Gather { return &Gather{c} }

// Write writes all of the buffers, and takes from them what was written.
func (g *Gather) Write(buffers *net.Buffers) (int64, error) { return buffers.WriteTo(g.c) }
