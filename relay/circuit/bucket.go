package circuit

import "time"

// bucket is an allowance that grows with time (a token bucket). Its owner locks
// it.
type bucket struct {
	rate   float64 // tokens per second
	burst  float64 // tokens at most
	tokens float64
	at     time.Time
}

func newBucket(rate, burst float64, now time.Time) *bucket {
	return &bucket{rate: rate, burst: burst, tokens: burst, at: now}
}

func (b *bucket) refill(now time.Time) {
	b.tokens = min(b.burst, b.tokens+now.Sub(b.at).Seconds()*b.rate)
	b.at = now
}

func (b *bucket) full() bool { return b.tokens >= b.burst }

// take uses one token if there is one.
func (b *bucket) take(now time.Time) bool {
	if b.refill(now); b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// ready returns when there will be a token.
func (b *bucket) ready(now time.Time) time.Time {
	b.refill(now)
	return now.Add(time.Duration(max(0, 1-b.tokens) / b.rate * float64(time.Second)))
}

// give adds a token, beyond the rate.
func (b *bucket) give() { b.tokens = min(b.burst, b.tokens+1) }
