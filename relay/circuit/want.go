package circuit

import (
	"fmt"
	"io"
	"log/slog"
	"slices"
	"time"

	"cuttle/relay/netmap"
	"cuttle/relay/wire"
)

// Key says which flows may share a circuit: those with equal keys. It is made by
// whoever knows the flows, as a keyed hash of what they must not share, so that it
// tells nothing by itself; it hides itself from printing, logging and encoding all
// the same. The zero Key is one like any other.
type Key [16]byte

const hiddenKey = "key(hidden)"

// String hides the key.
func (Key) String() string { return hiddenKey }

// GoString hides the key.
func (Key) GoString() string { return hiddenKey }

// Format hides the key from every verb.
func (Key) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, hiddenKey) }

// LogValue hides the key from slog.
func (Key) LogValue() slog.Value { return slog.StringValue(hiddenKey) }

// MarshalText hides the key from encoders.
func (Key) MarshalText() ([]byte, error) { return []byte(hiddenKey), nil }

// turn is who uses a circuit and since when. A session that moves to another
// circuit takes it along: the new one is as old as the one that was lost, so that
// nobody prolongs a turn by ending circuits.
type turn struct {
	key    Key
	used   time.Time // first use; zero: never
	era    int       // of the pool then, see Renew
	detour bool      // got for flows that other exits would not do for: for such only
	brief  bool      // for brief flows only, see Want.Brief
	wished bool      // to an exit that flows of its key wish for: for them only, also before its first use
}

// Want says which circuits will do for a flow.
type Want struct {
	Key      Key
	Families netmap.Families   // the exit's record must name them all
	Port     uint16            // the exit's record must let it out; 0: any
	Not      []wire.NodeID     // exits that will not do, e.g. since the destination refuses them
	Exits    []netmap.ExitWish // in order of preference, instead of what the pool chooses; such flows share circuits with their key only. none: any exit of the pool's
	Brief    bool              // little is carried and somebody waits for it: while the key's circuit carries bulk, one that never does is used
}

// fits tells whether the exit serves the want.
func (w *Want) fits(exit *netmap.Record) bool {
	return exit.Families&w.Families == w.Families && (w.Port == 0 || exit.Accepts(w.Port)) && !slices.Contains(w.Not, exit.ID) &&
		(len(w.Exits) == 0 || slices.ContainsFunc(w.Exits, func(e netmap.ExitWish) bool { return e.Matches(exit) }))
}

// best tells whether no other exit would be preferred to one that fits.
func (w *Want) best(exit *netmap.Record) bool { return len(w.Exits) == 0 || w.Exits[0].Matches(exit) }

// plain tells whether every exit serves the want.
func (w *Want) plain() bool {
	return w.Families == 0 && w.Port == 0 && len(w.Not) == 0 && len(w.Exits) == 0
}
