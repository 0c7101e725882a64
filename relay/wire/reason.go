package wire

import "fmt"

// Reason says why a hop refused a circuit, docs/protocol.md section 4.3.
type Reason uint8

// The reasons of REFUSE and EXTEND REFUSED.
const (
	ReasonBusy         Reason = 1 // no capacity now
	ReasonPaymentDue   Reason = 2 // the neighbor owes too much
	ReasonTierTooLow   Reason = 3 // the tier offered does not cover the price
	ReasonNotConnected Reason = 4 // no link to the next hop
	ReasonNotServed    Reason = 5 // the role asked for is not offered here
	ReasonProtocol     Reason = 6 // the request was malformed
)

var reasonNames = [...]string{"", "busy", "payment due", "tier too low", "next hop not connected", "not served here", "protocol"}

func (r Reason) valid() bool { return r >= ReasonBusy && r <= ReasonProtocol }

// String gives the reason in words.
func (r Reason) String() string {
	if r.valid() {
		return reasonNames[r]
	}
	return fmt.Sprintf("reason %d", uint8(r))
}

// Code says why a stream ended, docs/protocol.md section 6.
type Code uint8

// The codes of RESET.
const (
	CodeRefused            Code = 1 // connection refused
	CodeHostUnreachable    Code = 2
	CodeNetworkUnreachable Code = 3 // or the address family is not available
	CodeTimeout            Code = 4
	CodeForbidden          Code = 5 // by the exit's policy
	CodeResources          Code = 6 // exit out of resources
	CodeReset              Code = 7 // reset by the far end
	CodeEnded              Code = 8 // ended by the session
)

var codeNames = [...]string{"", "connection refused", "host unreachable", "network unreachable", "timed out", "forbidden by the exit's policy",
	"exit out of resources", "reset by the far end", "ended by the session"}

func (c Code) valid() bool { return c >= CodeRefused && c <= CodeEnded }

// String gives the code in words.
func (c Code) String() string {
	if c.valid() {
		return codeNames[c]
	}
	return fmt.Sprintf("code %d", uint8(c))
}
