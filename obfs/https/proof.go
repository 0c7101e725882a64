package https

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"net/http"
	"sync"
	"time"

	"cuttle/relay/wire"
)

// The proof (docs/protocol.md section 8.3).
const (
	slotLength   = 60 // seconds
	nonceSize    = 16
	proofSize    = nonceSize + sha256.Size // 48 bytes, 64 characters in the cookie
	bindingLabel = "EXPORTER-Channel-Binding"
	bindingSize  = 32 // RFC 9266 section 2
	roleClient   = 1
	roleServer   = 2
	replayMemory = 4096 // nonces
)

// cookieNames are ordinary names; each node uses the one its address picks.
var cookieNames = [...]string{"session", "sid", "sessionid", "_session", "visit", "route", "lb", "uid"}

type nonce [nonceSize]byte

type binding [bindingSize]byte

// exporter is what crypto/tls and utls have in common here.
type exporter interface {
	ExportKeyingMaterial(label string, context []byte, length int) ([]byte, error)
}

// bind gives the channel binding of a TLS session.
func bind(s exporter) (b binding, err error) {
	m, err := s.ExportKeyingMaterial(bindingLabel, nil, bindingSize)
	if err != nil {
		return b, err
	}
	return binding(m), nil
}

// prover makes and checks MACs under the key of one node.
type prover struct {
	key    [sha256.Size]byte
	cookie string
}

func newProver(node wire.NodeID) prover {
	pick := derive(node, "cookie")
	return prover{derive(node, "proof"), cookieNames[int(pick[0])%len(cookieNames)]}
}

func (p prover) mac(role byte, slot uint64, n nonce, b binding) []byte {
	m := hmac.New(sha256.New, p.key[:])
	m.Write([]byte{role})
	m.Write(binary.BigEndian.AppendUint64(nil, slot))
	m.Write(n[:])
	m.Write(b[:])
	return m.Sum(nil)
}

func slotOf(now time.Time) uint64 { return uint64(now.Unix()) / slotLength }

// claim is a proof that was made or accepted: what the server's answer covers.
type claim struct {
	slot    uint64
	nonce   nonce
	binding binding
}

// newClaim draws a nonce for a session at a time.
func newClaim(b binding, now time.Time) claim {
	c := claim{slot: slotOf(now), binding: b}
	_, _ = rand.Read(c.nonce[:]) // never fails (crypto/rand)
	return c
}

// value is the cookie's value for a claim.
func (p prover) value(c claim) string {
	return base64.RawURLEncoding.EncodeToString(append(c.nonce[:], p.mac(roleClient, c.slot, c.nonce, c.binding)...))
}

// answer is what proves to the client that the server checked its claim.
func (p prover) answer(c claim) []byte { return p.mac(roleServer, c.slot, c.nonce, c.binding) }

// gate judges the cookies that visitors bring.
type gate struct {
	prover
	now func() time.Time

	mu   sync.Mutex // guards what follows
	seen map[nonce]struct{}
	ring [replayMemory]nonce // seen in order of arrival; the oldest is forgotten
	next int
}

func newGate(node wire.NodeID, now func() time.Time) *gate {
	return &gate{prover: newProver(node), now: now, seen: make(map[nonce]struct{})}
}

// judge tells whether a request carries a fresh proof. It does the same work for
// every request, with or without a cookie, so that its time tells nothing.
func (g *gate) judge(r *http.Request) (claim, bool) {
	var raw [proofSize]byte
	formed := 0
	if c, err := r.Cookie(g.cookie); err == nil && len(c.Value) == base64.RawURLEncoding.EncodedLen(proofSize) {
		if n, err := base64.RawURLEncoding.Strict().Decode(raw[:], []byte(c.Value)); err == nil && n == proofSize {
			formed = 1
		}
	}
	c := claim{nonce: nonce(raw[:nonceSize])}
	bound := 0
	if r.TLS != nil {
		if b, err := bind(r.TLS); err == nil {
			c.binding, bound = b, 1
		}
	}
	right := 0
	now := slotOf(g.now())
	for _, slot := range [...]uint64{now - 1, now, now + 1} {
		if subtle.ConstantTimeCompare(raw[nonceSize:], g.mac(roleClient, slot, c.nonce, c.binding)) == 1 {
			right, c.slot = 1, slot
		}
	}
	if formed&bound&right != 1 {
		return claim{}, false
	}
	return c, g.first(c.nonce)
}

// first tells whether n has not been seen, and remembers it. The memory is
// bounded; forgetting early is harmless since a proof is bound to its session.
func (g *gate) first(n nonce) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, old := g.seen[n]; old {
		return false
	}
	if len(g.seen) == replayMemory {
		delete(g.seen, g.ring[g.next])
	}
	g.ring[g.next] = n
	g.next = (g.next + 1) % replayMemory
	g.seen[n] = struct{}{}
	return true
}
