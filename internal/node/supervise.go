package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"cuttle/billing/wallet"
	"cuttle/internal/control"
	"cuttle/internal/systemd"
	"cuttle/tun"
)

// keptTUN is the TUN's name in the service manager's store.
const keptTUN = "tun"

// statusEvery is how often the line that the service manager shows is looked at.
const statusEvery = 5 * time.Second

// credentialPrefix begins a password_file that names a credential.
const credentialPrefix = "credential:"

// supervised tells the service manager that the node has started, that it is
// alive and that it ends. It is the last part: what starts before it has started.
// A sign of life is sent only after the loop of the client and, by way of the
// control socket, everything that status asks have answered.
func (n *Node) supervised(ctx context.Context, manager *systemd.Supervisor) error {
	if err := errors.Join(manager.Status("started"), manager.Ready()); err != nil {
		return err
	}
	every := statusEvery
	patience := manager.Watchdog()
	if patience > 0 {
		every = min(every, patience/3)
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	shown := ""
	for {
		if patience > 0 {
			if err := n.alive(ctx, patience/2); err == nil {
				err = manager.Alive()
				if err != nil {
					n.log.Warn("the watchdog gets no sign of life", "err", err)
				}
			} else if ctx.Err() == nil {
				n.log.Error("a part of this node does not answer; the watchdog gets no sign of life", "err", err)
			}
		}
		if now := n.statusLine(); now != shown {
			shown = now
			if err := manager.Status(now); err != nil {
				n.log.Warn("the service manager cannot be told the status", "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return manager.Stopping()
		case <-tick.C:
		}
	}
}

// alive returns nil once the parts have answered, within patience.
func (n *Node) alive(ctx context.Context, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if n.cfg.Client.Enabled {
		select {
		case n.client.beat <- struct{}{}:
		case <-ctx.Done():
			return errors.New("the client's loop is busy")
		}
	}
	c, err := control.Dial(n.cfg.Node.Control)
	if err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	if _, err := c.Status(ctx); err != nil {
		return fmt.Errorf("status: %w", err)
	}
	return nil
}

// statusLine is for `systemctl status`, which everybody may read.
func (n *Node) statusLine() string {
	line := strings.Join(n.roles(), ", ")
	if n.cfg.Client.Enabled {
		state, _, _, _ := n.client.snapshot()
		line += ": " + string(state)
	}
	return line
}

// openTUN opens the TUN, or goes on with the one that was kept when an earlier
// process died, and has it kept.
func (c *client) openTUN() (tun.Device, error) {
	if file := c.keeper.Kept(keptTUN); file != nil {
		dev, err := tun.Adopt(file, c.cfg.Tun.Name, c.mtu())
		if err == nil {
			c.log.Info("going on with the tun device of an earlier run")
			return dev, nil
		}
		c.log.Warn("the tun device of an earlier run is not used", "err", err)
		c.dropTUN()
	}
	dev, err := tun.Open(c.cfg.Tun.Name, c.mtu())
	if err != nil {
		return nil, err
	}
	if d, ok := dev.(interface{ File() *os.File }); ok {
		if err := c.keeper.Keep(keptTUN, d.File()); err != nil {
			c.log.Warn("the tun device will not outlive a crash", "err", err)
		}
	}
	return dev, nil
}

// dropTUN lets the kept TUN go, unless the next process shall have it.
func (c *client) dropTUN() {
	if c.stay.Load() {
		return
	}
	err := c.keeper.Forget(keptTUN)
	if file := c.keeper.Kept(keptTUN); file != nil {
		err = errors.Join(err, file.Close())
	}
	if err != nil {
		c.log.Warn("the tun device may stay until the service stops", "err", err)
	}
}

// walletPassword reads what billing.password_file names: a credential of the
// service manager, an open descriptor, the terminal, or a file.
func walletPassword(from string) (string, error) {
	if name, ok := strings.CutPrefix(from, credentialPrefix); ok {
		return systemd.Credential(os.Getenv("CREDENTIALS_DIRECTORY"), name)
	}
	return wallet.Password(from)
}
