package billing

import (
	"fmt"
	"strconv"
)

// migrations lead from schema.sql, which is version 1, to the present version:
// the first one makes 2 of 1. They are only ever added to.
var migrations = []string{
	// What was paid and received over links: cumulative ledger units by way. dir 0:
	// we pay, acked is what the neighbor has confirmed; dir 1: the neighbor pays.
	`CREATE TABLE promise (
	   neighbor INTEGER NOT NULL REFERENCES neighbor, dir INTEGER NOT NULL CHECK (dir IN (0, 1)), way INTEGER NOT NULL,
	   cum INTEGER NOT NULL, acked INTEGER NOT NULL, CHECK (0 <= acked AND acked <= cum),
	   PRIMARY KEY (neighbor, dir, way)
	 ) STRICT, WITHOUT ROWID`,
	// The part of a neighbor's debt that an operator has let pass, and the age of what
	// a receipt has paid for, 0: nothing. lot.born is by the clocks of ages.go.
	`ALTER TABLE neighbor ADD COLUMN pardoned INTEGER NOT NULL DEFAULT 0 CHECK (pardoned >= 0);
	 ALTER TABLE receipt ADD COLUMN born INTEGER NOT NULL DEFAULT 0;
	 CREATE TABLE consumed (
	   day TEXT NOT NULL, neighbor INTEGER NOT NULL REFERENCES neighbor, tier INTEGER NOT NULL, cells INTEGER NOT NULL CHECK (cells >= 0),
	   PRIMARY KEY (day, neighbor, tier)
	 ) STRICT, WITHOUT ROWID`,
}

// schemaVersion is the present version.
func schemaVersion() int { return 1 + len(migrations) }

// migrate brings tables of an older version to the present one, all in this
// transaction.
func (x *tx) migrate(version string) error {
	have, err := strconv.Atoi(version)
	if err != nil || have < 1 || have > schemaVersion() {
		return fmt.Errorf("schema is %q, this program knows 1 to %d: use the program that wrote it, or a newer one", version, schemaVersion())
	}
	if have == schemaVersion() {
		return nil
	}
	for _, m := range migrations[have-1:] {
		if err := x.exec(m); err != nil {
			return fmt.Errorf("bring schema %d to %d: %w", have, schemaVersion(), err)
		}
	}
	return x.exec("UPDATE meta SET value = ? WHERE key = 'schema'", strconv.Itoa(schemaVersion()))
}
