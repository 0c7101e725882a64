package session

import (
	"time"

	"cuttle/relay/wire"
)

// attachment is one carrier of a session, from ATTACH on. What comes on a
// carrier is taken only while its attachment is the trunk's current one.
type attachment struct {
	carrier Carrier
	first   wire.SessionControl // what the pump sends before anything else, Number aside
	state   attachState         // guarded by trunk.receiving
	met     bool                // ATTACHED has come (client); guarded likewise
	answer  chan struct{}       // client: closed when ATTACHED or REFUSED has come
	refusal wire.Refusal        // client: set before answer is closed
	start   wire.Number         // the peer's packets that had arrived before it
	said    said                // the pump's alone
	trip    time.Duration       // the least that the carrier was found to take, 0: not known; guarded by trunk.mu
}

// least is trip; one that was measured while something held it up would make the path
// far. The caller holds trunk.mu.
func (a *attachment) least() time.Duration {
	if trip := tripOf(a.carrier); a.trip == 0 || trip > 0 && trip < a.trip {
		a.trip = trip
	}
	return a.trip
}

// hears tells whether the peer may speak: an exit when it has sent ATTACHED, a client
// when it has sent ATTACH, which made the attachment. The caller holds trunk.receiving.
func (t *trunk) hears(a *attachment) bool { return a.state == taking && (a.met || !t.client) }

// said is what the pump has sent on an attachment, so that nothing is told twice.
type said struct {
	begun      bool        // first was sent
	ack        wire.Number // newest next expected
	ping, pong uint64      // newest tokens
}

// attachState of the receiving side. Arrows: asking (client) -> taking.
type attachState uint8

const (
	taking attachState = iota // packets are taken
	asking                    // ATTACH was sent, ATTACHED has not come
)

// measured is for ATTACH and PING alike.
func measured(c Carrier, asked time.Time) {
	if l, ok := c.(interface{ Measured(trip time.Duration) }); ok {
		l.Measured(time.Since(asked))
	}
}

// tripOf is how long a round trip over the carrier took lately, if it knows; else 0.
func tripOf(c Carrier) time.Duration {
	if l, ok := c.(interface{ Trip() time.Duration }); ok {
		return l.Trip()
	}
	return 0
}

// gone tells the carrier, if it wants to know, that it has gone silent; before it is
// closed.
func gone(c Carrier) {
	if l, ok := c.(interface{ Silent() }); ok {
		l.Silent()
	}
}
