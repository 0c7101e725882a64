package circuit

import (
	"net"
	"sync"
)

// gate stops the reading end of a connection and lets it go on.
type gate struct {
	mu      sync.Mutex // guards passage
	passage chan struct{}
}

type gated struct {
	net.Conn
	gate *gate
}

func newGate() *gate {
	g := &gate{passage: make(chan struct{})}
	close(g.passage)
	return g
}

func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.passage = make(chan struct{})
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.passage)
}

func (g *gate) pipe() (reader, other net.Conn) {
	a, b := net.Pipe()
	return gated{a, g}, b
}

// Read hands on what it has read only while the gate is open.
func (c gated) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.gate.mu.Lock()
	p := c.gate.passage
	c.gate.mu.Unlock()
	<-p
	return n, err
}
