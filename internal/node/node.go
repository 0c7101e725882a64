// Package node assembles one node out of the parts (links, switch, exit,
// client, billing, control socket) and holds its state machine. New reads keys
// and files, checks them and touches nothing else; Run starts the parts in order
// and stops them in reverse.
//
// It contains no protocol and moves no packets. cmd/cuttled is its only caller.
// Each file says how its part is locked.
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"syscall"
	"time"

	"cuttle/billing"
	"cuttle/internal/config"
	"cuttle/internal/control"
	"cuttle/internal/nowait"
	"cuttle/internal/systemd"
	"cuttle/obfs"
	"cuttle/obfs/https"
	"cuttle/obfs/plain"
	"cuttle/relay/circuit"
	"cuttle/relay/exit"
	"cuttle/relay/link"
	"cuttle/relay/session"
	"cuttle/relay/wire"
	"cuttle/tun/hostnet"
)

// Node is one node. Run it once.
type Node struct {
	cfg     *config.Config
	log     *slog.Logger
	id      *Identity
	links   *neighborhood
	sw      *circuit.Switch
	client  *client
	book    *billing.Book // nil: nobody bills
	started time.Time

	sessions *session.Exit // nil: no exit
	exit     *exit.Exit    // the same
	control  func(network, address string, c syscall.RawConn) error
}

// New builds a node from its configuration. It makes missing keys, opens the
// ledger, and opens no socket.
func New(cfg *config.Config, log *slog.Logger) (*Node, error) {
	id, err := LoadIdentity(cfg.Node.State)
	if err != nil {
		return nil, err
	}
	known, err := descriptors(cfg)
	if err != nil {
		return nil, err
	}
	if _, err := exitWishes(cfg.Client.Exit); err != nil {
		return nil, err
	}
	mapped, err := readMap(cfg.Node.Map)
	if err != nil {
		return nil, err
	}
	rec, err := makeRecord(cfg, id, known, time.Now())
	if err != nil {
		return nil, err
	}
	n := &Node{cfg: cfg, log: log, id: id, started: time.Now()}
	if cfg.Client.Enabled {
		n.control = hostnet.Control(cfg.Tun.Mark)
	}
	n.links = &neighborhood{
		cfg: link.Config{
			ID: id.ID, Key: id.Handshake, Record: rec.Bytes(), MaxWindow: cfg.Relay.Window, Budget: link.NewBudget(memoryShare(cfg.Relay.Memory, machineMemory())),
			Check: func(record []byte) (link.Peer, error) {
				p, err := checkNeighbor(known, cfg.Node.AcceptClients, record)
				if err == nil && n.links.full(p.ID) {
					err = errFull
				}
				return p, err
			},
		},
		masks: []obfs.Mask{https.Mask{}, plain.Mask{}},
		raw:   &nowait.Dialer{Dialer: net.Dialer{Control: n.control}}, mapped: mapped, known: known, log: log,
		live: make(map[wire.NodeID]liveLink), fail: make(map[wire.NodeID]string),
	}
	if n.client, err = newClient(cfg, id.ID, mapped, n.links, log); err != nil {
		return nil, err
	}
	n.links.cameUp = n.client.retry
	if n.sw, err = n.newSwitch(); err != nil {
		return nil, err
	}
	if n.book, err = openBook(cfg, id.ID, n.client.onward, log); err != nil {
		return nil, fmt.Errorf("billing: %w", err)
	}
	n.links.cfg.Accounts = accounts(n.book, log)
	if n.client.limits, err = newSpending(cfg, n.book, log); err != nil {
		return nil, errors.Join(fmt.Errorf("billing: %w", err), n.closeBook())
	}
	n.client.onward.spent = func() error { return n.client.limits.reached(n.client.guards()) }
	return n, nil
}

func (n *Node) newSwitch() (*circuit.Switch, error) {
	sc := circuit.SwitchConfig{
		ID: n.id.ID, Key: n.id.Handshake, Links: n.links.onward,
		Relay: n.cfg.Node.Relay, RelayPrice: wire.Tier(n.cfg.Relay.Price), ExitPrice: wire.Tier(n.cfg.Exit.Price),
	}
	if n.cfg.Node.Exit {
		ex, err := newExit(n.cfg, n.control)
		if err != nil {
			return nil, err
		}
		n.exit = ex
		share := memoryShare(n.cfg.Relay.Memory, machineMemory())
		n.sessions = session.NewExit(func(from wire.NodeID) session.Opener { return ex.Circuit(from) },
			session.ExitConfig{Session: session.Config{
				Budget: sessionShare(share), Shared: session.NewBudget(share), Streams: max(1, exitConnections(n.cfg)/2),
				IdleReplied: time.Duration(n.cfg.Exit.UDPIdle), Queries: n.cfg.Exit.ClientQueries,
			}, Kept: share})
		sc.Serve = func(t *circuit.Terminal) (circuit.Handler, error) {
			return n.sessions.Accept(t, t.Neighbor()), nil
		}
	}
	return circuit.NewSwitch(sc)
}

// Run carries the node until ctx ends (nil) or a part fails.
func (n *Node) Run(ctx context.Context) error { return n.RunUnder(ctx, nil) }

// RunUnder is Run under a service manager, which is told how it goes and keeps
// the TUN across crashes; nil is nobody.
func (n *Node) RunUnder(ctx context.Context, manager *systemd.Supervisor) error {
	n.client.keeper = manager
	if n.cfg.Client.Enabled {
		if err := n.client.begin(); err != nil {
			return errors.Join(fmt.Errorf("close this machine, or open it after an earlier run: %w", err), n.closeBook())
		}
	}
	sock, err := control.Listen(n.cfg.Node.Control, n.cfg.Node.ControlGroup)
	if err != nil {
		return errors.Join(err, n.client.hold.leave(), n.closeBook())
	}
	api, err := control.NewServer(n, n.cfg.Node.ControlGroup)
	if err != nil {
		return errors.Join(err, n.client.hold.leave(), sock.Close(), n.closeBook())
	}
	if err := n.links.bind(ctx, &net.ListenConfig{Control: n.control}, n.cfg.Listen); err != nil {
		n.links.unbind()
		return errors.Join(err, n.client.hold.leave(), sock.Close(), n.closeBook())
	}
	var parts []part
	if n.book != nil {
		parts = append(parts, part{"billing", runBook(n.book)})
	}
	parts = append(parts,
		part{"switch", ignoreEnd(n.sw.Run)},
		part{"links", func(ctx context.Context) error { return n.links.run(ctx, n.sw, n.cfg.Node.State) }},
	)
	if n.book != nil {
		parts = append(parts, part{"counts", agreeAtEnd(n.book)})
	}
	if n.cfg.Client.Enabled {
		parts = append(parts, part{"client", func(pctx context.Context) error {
			return n.client.run(pctx, func() bool { return ctx.Err() != nil })
		}})
	}
	if n.cfg.Node.Metrics != "" {
		parts = append(parts, part{"metrics", n.serveMetrics})
	}
	parts = append(parts, part{"control socket", func(ctx context.Context) error { return api.Run(ctx, sock) }})
	parts = append(parts, part{"service manager", func(ctx context.Context) error { return n.supervised(ctx, manager) }})
	n.log.Info("node runs", "node", n.id.ID, "roles", n.roles())
	err = runParts(ctx, parts)
	if n.sessions != nil {
		n.sessions.Close()
		n.exit.Close()
	}
	return err
}

// StayClosed makes the coming end of Run leave the machine closed if it is, for a
// restart that lets nothing out.
func (n *Node) StayClosed() { n.client.stay.Store(true) }

func (n *Node) closeBook() error {
	if n.book == nil {
		return nil
	}
	return n.book.Close()
}

func (n *Node) roles() []string {
	roles := []string{}
	if n.cfg.Client.Enabled {
		roles = append(roles, "client")
	}
	if n.cfg.Node.Relay {
		roles = append(roles, "relay")
	}
	if n.cfg.Node.Exit {
		roles = append(roles, "exit")
	}
	return roles
}
