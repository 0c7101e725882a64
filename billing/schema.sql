-- The ledger, schema 1. Money is in ledger units (1e-9 token), chain amounts are decimal text.
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;

CREATE TABLE neighbor (
  id      INTEGER PRIMARY KEY,
  node    BLOB NOT NULL UNIQUE CHECK (length(node) = 32),
  strikes INTEGER NOT NULL DEFAULT 0,
  dispute TEXT NOT NULL DEFAULT ''
) STRICT;

-- Agreed cells since the beginning. proven: what the neighbor has shown to hold durably too.
CREATE TABLE total (
  neighbor INTEGER NOT NULL REFERENCES neighbor, dir INTEGER NOT NULL, payer INTEGER NOT NULL, tier INTEGER NOT NULL,
  cells    INTEGER NOT NULL CHECK (cells >= 0),
  proven   INTEGER NOT NULL DEFAULT 0 CHECK (proven BETWEEN 0 AND cells),
  PRIMARY KEY (neighbor, dir, payer, tier)
) STRICT, WITHOUT ROWID;

-- Double entry. Postings of one journal row sum to zero.
CREATE TABLE journal (
  id INTEGER PRIMARY KEY, at INTEGER NOT NULL, kind TEXT NOT NULL, ref TEXT NOT NULL, UNIQUE (kind, ref)
) STRICT;
CREATE TABLE posting (
  journal INTEGER NOT NULL REFERENCES journal, account TEXT NOT NULL, neighbor INTEGER REFERENCES neighbor,
  amount  INTEGER NOT NULL
) STRICT;
CREATE INDEX posting_journal ON posting (journal);
CREATE INDEX posting_account ON posting (neighbor, account);

-- What is owed, by age. side 0: we owe (payable), 1: the neighbor owes (receivable).
CREATE TABLE lot (
  id       INTEGER PRIMARY KEY,
  neighbor INTEGER NOT NULL REFERENCES neighbor, side INTEGER NOT NULL, born INTEGER NOT NULL,
  amount   INTEGER NOT NULL, open INTEGER NOT NULL, journal INTEGER NOT NULL REFERENCES journal,
  CHECK (0 <= open AND open <= amount)
) STRICT;
CREATE INDEX lot_side ON lot (neighbor, side);
CREATE INDEX lot_open ON lot (neighbor, side, born) WHERE open > 0;

-- Payments we make. state is evm.State.
CREATE TABLE intent (
  id       INTEGER PRIMARY KEY,
  neighbor INTEGER NOT NULL REFERENCES neighbor,
  wallet   BLOB NOT NULL CHECK (length(wallet) = 20), payee BLOB NOT NULL CHECK (length(payee) = 20),
  amount   INTEGER NOT NULL CHECK (amount > 0), token_amount TEXT NOT NULL,
  born     INTEGER NOT NULL, planned INTEGER NOT NULL, state INTEGER NOT NULL, looked_at INTEGER NOT NULL DEFAULT 0,
  nonce    INTEGER, tx BLOB, block INTEGER, block_hash BLOB, confirmations INTEGER NOT NULL DEFAULT 0,
  CHECK ((nonce IS NULL) = (state = 0))
) STRICT;
CREATE UNIQUE INDEX intent_nonce ON intent (wallet, nonce) WHERE nonce IS NOT NULL;
CREATE UNIQUE INDEX intent_open ON intent (neighbor) WHERE state <= 3;
CREATE TABLE attempt (
  intent INTEGER NOT NULL REFERENCES intent, n INTEGER NOT NULL, hash BLOB NOT NULL UNIQUE, raw BLOB NOT NULL,
  tip TEXT NOT NULL, cap TEXT NOT NULL, gas INTEGER NOT NULL, at INTEGER NOT NULL,
  PRIMARY KEY (intent, n)
) STRICT, WITHOUT ROWID;

-- Payments we received; neighbor is null until a binding claims the sender.
CREATE TABLE receipt (
  tx BLOB NOT NULL, log_index INTEGER NOT NULL, block INTEGER NOT NULL, block_hash BLOB NOT NULL,
  sender BLOB NOT NULL CHECK (length(sender) = 20), neighbor INTEGER REFERENCES neighbor,
  amount INTEGER NOT NULL CHECK (amount >= 0), token_amount TEXT NOT NULL, entry INTEGER NOT NULL,
  PRIMARY KEY (tx, log_index)
) STRICT, WITHOUT ROWID;
CREATE INDEX receipt_sender ON receipt (sender);
CREATE TABLE mark (number INTEGER PRIMARY KEY, hash BLOB NOT NULL) STRICT;

-- Whose payments are whose: one wallet, one neighbor.
CREATE TABLE binding (
  wallet BLOB PRIMARY KEY CHECK (length(wallet) = 20), neighbor INTEGER NOT NULL REFERENCES neighbor,
  expiry INTEGER NOT NULL, sig BLOB NOT NULL
) STRICT, WITHOUT ROWID;
