package billing

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"
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
	// Channels of the hub. dir 0: we pay, dir 1: the neighbor does. total, paid, epoch
	// and signer are the chain's as believed at block at, cum and sig the last
	// voucher of the epoch; amounts of the token are decimal text, units are the
	// ledger's. counted: what vouchers have moved in the ledger in this epoch.
	`CREATE TABLE channel (
	   id INTEGER PRIMARY KEY, neighbor INTEGER NOT NULL REFERENCES neighbor, dir INTEGER NOT NULL CHECK (dir IN (0, 1)),
	   payer BLOB NOT NULL CHECK (length(payer) = 20), payee BLOB NOT NULL CHECK (length(payee) = 20),
	   epoch INTEGER NOT NULL DEFAULT 0, signer BLOB NOT NULL DEFAULT x'0000000000000000000000000000000000000000', at INTEGER NOT NULL DEFAULT 0,
	   total TEXT NOT NULL DEFAULT '0', total_units INTEGER NOT NULL DEFAULT 0,
	   paid TEXT NOT NULL DEFAULT '0', paid_units INTEGER NOT NULL DEFAULT 0,
	   cum TEXT NOT NULL DEFAULT '0', sig BLOB, counted INTEGER NOT NULL DEFAULT 0,
	   close_at INTEGER NOT NULL DEFAULT 0, key BLOB, since INTEGER NOT NULL DEFAULT 0, closing INTEGER NOT NULL DEFAULT 0,
	   UNIQUE (payer, payee),
	   CHECK (0 <= paid_units AND paid_units <= total_units AND 0 <= counted)
	 ) STRICT;
	 CREATE INDEX channel_neighbor ON channel (neighbor);
	 CREATE TABLE call (
	   id INTEGER PRIMARY KEY, wallet BLOB NOT NULL CHECK (length(wallet) = 20), kind INTEGER NOT NULL, channel INTEGER REFERENCES channel,
	   token_amount TEXT NOT NULL, target BLOB NOT NULL CHECK (length(target) = 20), data BLOB NOT NULL, urgent INTEGER NOT NULL DEFAULT 0,
	   planned INTEGER NOT NULL, state INTEGER NOT NULL, looked_at INTEGER NOT NULL DEFAULT 0,
	   nonce INTEGER, tx BLOB, block INTEGER, block_hash BLOB, confirmations INTEGER NOT NULL DEFAULT 0,
	   CHECK ((nonce IS NULL) = (state = 0))
	 ) STRICT;
	 CREATE UNIQUE INDEX call_nonce ON call (wallet, nonce) WHERE nonce IS NOT NULL;
	 CREATE TABLE call_attempt (
	   intent INTEGER NOT NULL REFERENCES call, n INTEGER NOT NULL, hash BLOB NOT NULL UNIQUE, raw BLOB NOT NULL,
	   tip TEXT NOT NULL, cap TEXT NOT NULL, gas INTEGER NOT NULL, at INTEGER NOT NULL,
	   PRIMARY KEY (intent, n)
	 ) STRICT, WITHOUT ROWID;
	 DROP INDEX intent_open;
	 CREATE UNIQUE INDEX intent_planned ON intent (neighbor) WHERE state = 0`,
	// fee: what the transaction has cost, of the chain's coin, NULL until it is deep
	// enough. skipped: nonces of a wallet that the chain had when we gave the next one,
	// and that are not ours. cash: what a wallet was seen to hold, and what had left it
	// through the ledger by then. target: what the deposit of a channel is to reach.
	`ALTER TABLE intent ADD COLUMN fee INTEGER CHECK (fee >= 0);
	 ALTER TABLE call ADD COLUMN fee INTEGER CHECK (fee >= 0);
	 UPDATE intent SET fee = (SELECT coalesce(sum(p.amount), 0) FROM journal j JOIN posting p ON p.journal = j.id
	   WHERE j.kind = 'fee' AND j.ref LIKE intent.id || '/%' AND p.account = 'fees') WHERE state IN (4, 5);
	 UPDATE call SET fee = (SELECT coalesce(sum(p.amount), 0) FROM journal j JOIN posting p ON p.journal = j.id
	   WHERE j.kind = 'fee' AND j.ref LIKE '-' || call.id || '/%' AND p.account = 'fees') WHERE state IN (4, 5);
	 CREATE TABLE skipped (
	   wallet BLOB NOT NULL CHECK (length(wallet) = 20), first INTEGER NOT NULL, last INTEGER NOT NULL, CHECK (first <= last),
	   PRIMARY KEY (wallet, first)
	 ) STRICT, WITHOUT ROWID;
	 INSERT INTO skipped SELECT wallet, before + 1, nonce - 1 FROM (
	   SELECT wallet, nonce, lag(nonce) OVER (PARTITION BY wallet ORDER BY nonce) AS before FROM (
	     SELECT wallet, nonce FROM intent WHERE nonce IS NOT NULL UNION ALL SELECT wallet, nonce FROM call WHERE nonce IS NOT NULL))
	   WHERE nonce > before + 1;
	 CREATE TABLE cash (
	   wallet BLOB PRIMARY KEY CHECK (length(wallet) = 20), block INTEGER NOT NULL, balance INTEGER NOT NULL CHECK (balance >= 0), moved INTEGER NOT NULL
	 ) STRICT, WITHOUT ROWID;
	 ALTER TABLE channel ADD COLUMN target INTEGER NOT NULL DEFAULT 0 CHECK (target >= 0)`,
}

// schemaVersion is the present version.
func schemaVersion() int { return 1 + len(migrations) }

// migrate brings tables of an older version to the present one, all in this
// transaction.
func (x *tx) migrate(version string) error {
	have, err := strconv.Atoi(version)
	if err != nil || have < 1 {
		return fmt.Errorf("schema is %q, which is none", version)
	}
	if have > schemaVersion() {
		return &SchemaError{have, schemaVersion()}
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

// bring brings a ledger file that nobody has open to the present schema, if it
// holds together then; if not, it stays as it was.
func bring(ctx context.Context, path string) error {
	l, err := connect(path, time.Now, time.Hour)
	if err != nil {
		return err
	}
	err = l.transact(ctx, func(tx *tx) error {
		var version string
		if _, err := tx.one("SELECT value FROM meta WHERE key = 'schema'", nil, &version); err != nil {
			return err
		}
		if err := tx.migrate(version); err != nil {
			return err
		}
		return tx.check()
	})
	return errors.Join(err, l.read.Close(), l.write.Close())
}
