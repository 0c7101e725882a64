package exit

import (
	"context"
	"errors"
	"time"

	"cuttle/relay/session"
	"cuttle/relay/wire"
)

const (
	udpTime   = 2 * time.Second // for one resolver's answer over UDP
	tcpTime   = 5 * time.Second // over TCP
	rounds    = 2               // times the list of resolvers is gone through
	maxStrays = 8               // replies that do not match, before UDP is not trusted with this query
)

var (
	errStrays = errors.New("replies that do not match")
	errReply  = errors.New("reply does not match")
)

// resolve sends a query to the configured resolvers, in order, and returns the
// first answer that says more than that the resolver cannot. The query goes out
// as it is but for its identifier, which is random; the answer comes back as it
// is, addresses that the policy forbids included, since what is dialed is checked.
// If no resolver answers, the answer is SERVFAIL. Only bytes that are no query are
// an error.
func (e *Exit) resolve(ctx context.Context, c *Circuit, query []byte) ([]byte, error) {
	e.counts.queries.Add(1)
	code, err := refusal(query)
	if err != nil {
		return nil, &session.Error{Code: wire.CodeForbidden}
	}
	if code != 0 {
		return failure(query, code), nil
	}
	if now := time.Now(); !c.asking.take(now) || !c.near.Load().asking.take(now) {
		e.counts.limited.Add(1)
		return failure(query, rcodeServFail), nil
	}
	ctx, cancel := context.WithTimeout(ctx, e.cfg.ResolveTimeout)
	defer cancel()
	if e.queries.wait(ctx, &c.questions) != nil {
		e.counts.unanswered.Add(1)
		return failure(query, rcodeServFail), nil
	}
	defer e.queries.give(&c.questions)
	if answer := e.where(ctx, query); answer != nil {
		return answer, nil
	}
	var last []byte // an answer that says no more than that
	for range rounds {
		for _, u := range e.inOrder() {
			answer, err := u.ask(ctx, query)
			u.note(ctx, err)
			if err != nil {
				continue
			}
			copy(answer, query[:2])
			if c := rcode(answer); c != rcodeServFail && c != rcodeRefused {
				return answer, nil
			}
			last = answer
		}
		if last != nil || ctx.Err() != nil {
			break
		}
	}
	if last == nil {
		e.counts.unanswered.Add(1)
		last = failure(query, rcodeServFail)
	}
	return last, nil
}
