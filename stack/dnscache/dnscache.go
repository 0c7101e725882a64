// Package dnscache keeps answers to DNS questions for as long as their TTL lasts.
//
// Answers are kept as the bytes they came as, so that every record type is kept
// alike; only identifier, question and TTLs are written anew when one is given
// out. What programs of one group have learnt is never told to another group: a
// group is whoever may share a circuit, and a cache that two of them share would
// tell each of them, and by what is not asked again the exit, what the other does.
//
// It refuses what it does not understand: such questions and answers are not
// kept. Nothing is logged, and time is an argument. internal/node asks it before
// it asks an exit. A Cache is locked by one mutex.
package dnscache

import (
	"container/list"
	"encoding/binary"
	"sync"
	"time"
)

// Tunables.
const (
	mostPositive = time.Hour        // an answer is kept, whatever its TTL: resolvers ask again, and so do we
	mostNegative = 15 * time.Minute // that there is none (RFC 2308 section 5 asks for a limit)
	overhead     = 320              // bytes that an entry costs beside its answer and key, about
	share        = 16               // an answer larger than this part of the cache is not kept
)

// Group tells who shares answers: those whose groups are equal.
type Group [16]byte

// Cache keeps answers. The zero Cache keeps none; all methods may be called by
// any goroutine.
type Cache struct {
	most int // bytes

	mu      sync.Mutex // guards the fields below
	entries map[key]*list.Element
	order   list.List // of *entry; the one used last is in front
	size    int       // bytes
	era     uint64    // grows with Clear
}

// key is what an answer depends on.
type key struct {
	group    Group
	question string // name in lower case, type, class
	bits     uint16 // of the header and of EDNS
}

type entry struct {
	key    key
	answer []byte
	ttls   []uint16 // offsets of the TTLs in it
	life   time.Duration
	at     time.Time
}

func (e *entry) cost() int { return len(e.answer) + len(e.key.question) + 2*len(e.ttls) + overhead }

// Ticket is the right to store the answer to a question that Get did not know.
// The zero Ticket stores nothing.
type Ticket struct {
	key key
	at  time.Time
	era uint64
	ok  bool
}

// New makes a cache of so many bytes; 0 keeps nothing.
func New(bytes int) *Cache {
	return &Cache{most: max(0, bytes), entries: make(map[key]*list.Element)}
}

// Get returns the answer to a query (RFC 1035 section 4) if a member of the group
// has had it and its TTL still lasts, with the query's identifier and spelling of
// the name and with what is left of the TTLs. Otherwise the answer is nil, and the
// ticket stores the one that is found elsewhere. query is not kept or changed.
func (c *Cache) Get(group Group, query []byte, now time.Time) ([]byte, Ticket) {
	if c.most == 0 {
		return nil, Ticket{}
	}
	q, bits, ok := readQuery(query)
	if !ok {
		return nil, Ticket{}
	}
	k := key{group, folded(q), bits}
	c.mu.Lock()
	defer c.mu.Unlock()
	t := Ticket{k, now, c.era, true}
	at := c.entries[k]
	if at == nil {
		return nil, t
	}
	e := at.Value.(*entry)
	age, ok := since(e.at, now)
	if !ok || age >= e.life {
		c.drop(at)
		return nil, t
	}
	c.order.MoveToFront(at)
	return e.render(query, q, age), Ticket{}
}

// Put stores the answer to the query that the ticket was given for, if it may be
// kept: it is whole, says that something is or is not there, and has a TTL. It
// keeps a copy.
func (c *Cache) Put(t Ticket, answer []byte) {
	if !t.ok || len(answer) > c.most/share {
		return
	}
	m, ok := readAnswer(answer, t.key.question, t.key.bits)
	if !ok || m.life <= 0 {
		return
	}
	e := &entry{key: t.key, answer: append([]byte(nil), answer[:m.size]...), ttls: m.ttls, life: m.life, at: t.at}
	m.settle(e.answer)
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.era != c.era {
		return // it was asked before the cache was cleared
	}
	if old := c.entries[t.key]; old != nil {
		c.drop(old)
	}
	c.entries[t.key] = c.order.PushFront(e)
	c.size += e.cost()
	for c.size > c.most {
		c.drop(c.order.Back())
	}
}

// Clear forgets everything, and answers that are under way are not kept.
func (c *Cache) Clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.entries)
	c.order.Init()
	c.size = 0
	c.era++
}

// Size returns the bytes in use.
func (c *Cache) Size() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.size
}

// drop is called with mu held.
func (c *Cache) drop(at *list.Element) {
	e := c.order.Remove(at).(*entry)
	delete(c.entries, e.key)
	c.size -= e.cost()
}

// since is the time from at to now by the clock that went further: the monotonic
// one stands while the machine sleeps, the other one may be set. false: it was set
// back, so that nobody knows.
func since(at, now time.Time) (time.Duration, bool) {
	wall := now.Round(0).Sub(at.Round(0))
	return max(now.Sub(at), wall), wall >= 0
}

// render makes the answer to a query whose question is q.
func (e *entry) render(query, q []byte, age time.Duration) []byte {
	b := append([]byte(nil), e.answer...)
	copy(b, query[:2])
	copy(b[headerSize:], q)
	b[2] &^= bitAA // it is a copy
	gone := uint32((age + time.Second - 1) / time.Second)
	for _, at := range e.ttls {
		ttl := binary.BigEndian.Uint32(b[at:])
		binary.BigEndian.PutUint32(b[at:], ttl-min(ttl, gone))
	}
	return b
}
