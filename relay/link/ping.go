package link

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"cuttle/relay/wire"
)

// pinger measures the round trip of a link. One PING is under way at a time.
type pinger struct {
	mu      sync.Mutex // guards the fields up to samples
	token   uint64     // of the PING under way; 0: none
	sentAt  time.Duration
	samples [maxRTTSamples]time.Duration
	next    int

	rtt atomic.Int64 // the smallest of the samples; 0: not known yet
}

// RTT returns the link's round trip time, the smallest of the last
// measurements; 0 before the first.
func (l *Link) RTT() time.Duration { return time.Duration(l.ping.rtt.Load()) }

// sendPing queues a PING when none is under way and the last is old enough. So
// a side is never silent for longer than pingAfter.
func (l *Link) sendPing() {
	p := &l.ping
	p.mu.Lock()
	defer p.mu.Unlock()
	now := l.now()
	if p.token != 0 || p.sentAt != 0 && now-p.sentAt < pingAfter {
		return
	}
	p.token, p.sentAt = rand.Uint64()|1, now
	l.control(wire.AppendPing(nil, p.token))
}

// pong takes the answer; false if nobody asked.
func (l *Link) pong(token uint64) bool {
	p := &l.ping
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.token == 0 || p.token != token {
		return false
	}
	p.token = 0
	p.samples[p.next%maxRTTSamples] = max(1, l.now()-p.sentAt)
	p.next++
	least := p.samples[0]
	for _, s := range p.samples[:min(p.next, maxRTTSamples)] {
		least = min(least, s)
	}
	p.rtt.Store(int64(least))
	return true
}

// unanswered is how long the PING under way has waited, 0 if none does. A neighbor
// that sends but does not read, or does not answer, is not kept for ever.
func (l *Link) unanswered() time.Duration {
	p := &l.ping
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.token == 0 {
		return 0
	}
	return l.now() - p.sentAt
}
