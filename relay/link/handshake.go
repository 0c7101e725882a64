package link

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"

	"cuttle/relay/onion"
	"cuttle/relay/wire"
)

var (
	errSelf   = errors.New("neighbor has our own address")
	errRecord = errors.New("no judge for the neighbor's record")
)

// Dial does the initiator's part of the handshake (docs/protocol.md section
// 3.2) with peer over conn, within ten seconds and ctx. No byte of ours but the
// first message leaves before the neighbor has proved its key. On an error conn
// is closed; else the link owns it.
func Dial(ctx context.Context, conn net.Conn, cfg Config, peer Peer) (*Link, error) {
	if peer.ID == cfg.ID {
		_ = conn.Close()
		return nil, fmt.Errorf("link handshake: %w", errSelf)
	}
	peer.KEM = slices.Clone(peer.KEM)
	keys, err := withDeadline(ctx, conn, func() (*onion.LinkKeys, error) { return initiate(conn, cfg, peer) })
	if err != nil {
		return nil, fmt.Errorf("link handshake: %w", err)
	}
	return start(conn, cfg, peer, true, keys)
}

// Accept does the acceptor's part over conn, within ten seconds and ctx. Every
// failure closes the connection without an answer. How many run at once is for
// the caller to bound.
func Accept(ctx context.Context, conn net.Conn, cfg Config) (*Link, error) {
	var peer Peer
	keys, err := withDeadline(ctx, conn, func() (keys *onion.LinkKeys, err error) {
		peer, keys, err = respond(conn, cfg)
		return keys, err
	})
	if err != nil {
		return nil, fmt.Errorf("link handshake: %w", err)
	}
	return start(conn, cfg, peer, false, keys)
}

func start(conn net.Conn, cfg Config, peer Peer, initiator bool, keys *onion.LinkKeys) (*Link, error) {
	s, o, err := keys.Split()
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("link handshake: %w", err)
	}
	tuneSocket(conn)
	return newLink(conn, cfg, peer, initiator, s, o), nil
}

func (c *Config) suites() []onion.Suite {
	if len(c.Suites) > 0 {
		return c.Suites
	}
	return onion.DefaultSuites()
}

// firstMessages is the memory of nodes that bring none: 16 bytes each.
var firstMessages = onion.NewReplayCache(1 << 14)

func (c *Config) seen() *onion.ReplayCache {
	if c.Seen != nil {
		return c.Seen
	}
	return firstMessages
}

// withDeadline runs the handshake f; when the time is over, or ctx, what it
// reads and writes fails. conn is closed unless f succeeds.
func withDeadline(ctx context.Context, conn net.Conn, f func() (*onion.LinkKeys, error)) (*onion.LinkKeys, error) {
	err := conn.SetDeadline(time.Now().Add(handshakeTime))
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	var keys *onion.LinkKeys
	if err == nil {
		keys, err = f()
	}
	if !stop() && ctx.Err() != nil {
		err = ctx.Err()
	}
	if err == nil {
		err = conn.SetDeadline(time.Time{})
	}
	if err != nil {
		_ = conn.Close()
		return nil, scrub("", err)
	}
	return keys, nil
}

func initiate(conn net.Conn, cfg Config, peer Peer) (*onion.LinkKeys, error) {
	h, msg1, err := onion.StartLink(peer.ID, peer.KEM, cfg.Key, cfg.Record, cfg.suites())
	if err != nil {
		return nil, err
	}
	if _, err := conn.Write(msg1); err != nil {
		return nil, err
	}
	var msg2 [wire.LinkMsg2Size]byte
	if _, err := io.ReadFull(conn, msg2[:]); err != nil {
		return nil, err
	}
	msg3, keys, err := h.Finish(msg2[:])
	if err != nil {
		return nil, err
	}
	_, err = conn.Write(msg3)
	return keys, err
}

func respond(conn net.Conn, cfg Config) (peer Peer, _ *onion.LinkKeys, err error) {
	if cfg.Check == nil {
		return peer, nil, errRecord
	}
	msg1 := make([]byte, wire.LinkMsg1Size)
	if _, err := io.ReadFull(conn, msg1); err != nil {
		return peer, nil, err
	}
	h, record, err := onion.AcceptLink(cfg.ID, cfg.Key, msg1)
	if err != nil {
		return peer, nil, err
	}
	if cfg.seen().Seen(msg1[:wire.KEMEncSize]) {
		return peer, nil, onion.ErrReplayed
	}
	if peer, err = cfg.Check(record); err != nil {
		return peer, nil, err
	}
	if peer.ID == cfg.ID {
		return peer, nil, errSelf
	}
	msg2, err := h.Reply(peer.KEM, cfg.suites())
	if err != nil {
		return peer, nil, err
	}
	if _, err := conn.Write(msg2); err != nil {
		return peer, nil, err
	}
	var msg3 [wire.LinkMsg3Size]byte
	if _, err := io.ReadFull(conn, msg3[:]); err != nil {
		return peer, nil, err
	}
	keys, err := h.Finish(msg3[:])
	return peer, keys, err
}

// scrub takes the addresses out of a network error.
func scrub(what string, err error) error {
	var op *net.OpError
	if errors.As(err, &op) && op.Err != nil {
		err = op.Err
	}
	if what == "" {
		return err
	}
	return fmt.Errorf("%s: %w", what, err)
}
