package config

import (
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// LedgerUnit is how many ledger units one token has (docs/protocol.md section 7).
const LedgerUnit = 1_000_000_000

const maxTier = 63 // docs/protocol.md section 7

// check reports the first value that cannot work, and what to write instead.
func (c *Config) check() error {
	for _, f := range []func() error{c.checkNode, c.checkClient, c.nameTUN, c.checkHost, c.checkRelay, c.checkExit, c.checkBilling} {
		if err := f(); err != nil {
			return err
		}
	}
	return nil
}

func (c *Config) checkNode() error {
	n := &c.Node
	for key, v := range map[string]string{"state": n.State, "control": n.Control, "map": n.Map} {
		if v == "" {
			return fmt.Errorf("node.%s is empty; give a path", key)
		}
	}
	if n.Country != "" && (len(n.Country) != 2 || strings.ToUpper(n.Country) != n.Country) {
		return fmt.Errorf("node.country %q: want two capital letters (ISO 3166-1), or empty", n.Country)
	}
	if n.Metrics != "" {
		if a, err := netip.ParseAddrPort(n.Metrics); err != nil || !a.Addr().IsLoopback() || a.Port() == 0 {
			return fmt.Errorf("node.metrics %q: want a loopback address and port, for example 127.0.0.1:9099, or empty", n.Metrics)
		}
	}
	if n.Exit && !n.Relay {
		return errors.New("node.exit needs node.relay = true, since an exit carries others' circuits")
	}
	if n.Relay && len(c.Listen) == 0 && len(c.Neighbor) == 0 {
		return errors.New("node.relay needs a [[listen]] or a [[neighbor]] table, otherwise nobody can reach it")
	}
	for i, l := range c.Listen {
		if l.Mask == "" {
			return fmt.Errorf("listen %d: mask is missing; write https or plain", i+1)
		}
		if _, err := netip.ParseAddrPort(l.Address); err != nil {
			return fmt.Errorf("listen %d: address %q: want IP:port, for example 0.0.0.0:443 or [::]:443", i+1, l.Address)
		}
	}
	for i, nb := range c.Neighbor {
		if nb.Descriptor == "" {
			return fmt.Errorf("neighbor %d: descriptor is missing; write cuttle://<node address>@host:port?mask=https", i+1)
		}
	}
	return nil
}

func (c *Config) checkClient() error {
	cl := &c.Client
	if cl.Hops < 1 || cl.Hops > 6 {
		return fmt.Errorf("client.hops %d: want 1 to 6", cl.Hops)
	}
	if cl.Pool < 1 || cl.Pool > 16 {
		return fmt.Errorf("client.pool %d: want 1 to 16", cl.Pool)
	}
	if cl.MaxTier < 0 || cl.MaxTier > maxTier {
		return fmt.Errorf("client.max_tier %d: want 0 to %d", cl.MaxTier, maxTier)
	}
	if cl.Early != "off" && cl.Early != "recent" && cl.Early != "all" {
		return fmt.Errorf("client.early %q: want off, recent or all", cl.Early)
	}
	if cl.DNSCache < 0 || cl.DNSCache > 1024 {
		return fmt.Errorf("client.dns_cache %d: want 0 (off) to 1024 MiB", cl.DNSCache)
	}
	for _, what := range cl.Isolate {
		if what != "destination" && what != "user" && what != "device" {
			return fmt.Errorf("client.isolate %q: want destination, user and device, any of them or none", what)
		}
	}
	if cl.Enabled && len(c.Neighbor) == 0 {
		return errors.New("client.enabled needs a [[neighbor]] with an address: the guard to connect to")
	}
	t := &c.Tun
	if t.Name == "" || len(t.Name) > 15 || strings.ContainsAny(t.Name, "/ %") {
		return fmt.Errorf("tun.name %q: want 1 to 15 characters without / and spaces", t.Name)
	}
	if t.MTU != 0 && (t.MTU < 1280 || t.MTU > 65535) {
		return fmt.Errorf("tun.mtu %d: want 0 (chosen) or 1280 to 65535", t.MTU)
	}
	if t.Mark == 0 {
		return errors.New("tun.mark is 0, which marks nothing; leave it out for the default")
	}
	if t.Table < 1 || t.Table == 253 || t.Table == 254 || t.Table == 255 {
		return fmt.Errorf("tun.table %d: want a number above 0 that is not 253, 254 or 255 (the system's)", t.Table)
	}
	return nil
}

func (c *Config) checkRelay() error {
	for key, v := range map[string]int{"relay.price": c.Relay.Price, "exit.price": c.Exit.Price} {
		if v < 0 || v > maxTier {
			return fmt.Errorf("%s %d: want 0 to %d", key, v, maxTier)
		}
	}
	if w := c.Relay.Window; w != 0 && (w < 128 || w > 65536) {
		return fmt.Errorf("relay.window %d: want 0 (chosen) or 128 to 65536 cells", w)
	}
	if m := c.Relay.Memory; m != 0 && (m < 8 || m > 1<<20) {
		return fmt.Errorf("relay.memory %d: want 0 (chosen) or 8 to 1048576 MiB", m)
	}
	return nil
}

func (c *Config) checkBilling() error {
	b := &c.Billing
	if err := b.checkSpending(); err != nil {
		return err
	}
	switch b.Mode {
	case "none":
		return nil
	case "account":
		return c.checkDebts()
	case "paid":
	default:
		return fmt.Errorf("billing.mode %q: want none, account or paid", b.Mode)
	}
	if len(b.RPC) == 0 {
		return errors.New("billing.rpc is empty; a paid network needs at least one JSON-RPC endpoint of the chain")
	}
	for _, r := range b.RPC {
		if u, err := url.Parse(r); err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
			return errors.New("billing.rpc: every endpoint is an http:// or https:// address")
		}
	}
	if c.Client.Enabled && b.Consuming == "" {
		return errors.New("billing.consuming is empty: a paid network needs a consuming wallet, which pays for this client's traffic; make one with " +
			"`cuttle wallet new`, send token and some of the chain's coin to its address, and name the file here " +
			"(billing.mode = \"none\" or \"account\" need none, and so do relays and exits that are not clients)")
	}
	if b.Consuming != "" && b.PasswordFile == "" {
		return errors.New("billing.password_file is empty: it unlocks billing.consuming; give a file, \"credential:NAME\", \"fd:N\" or \"prompt\"")
	}
	for key, v := range map[string]string{"window": b.Window, "deposit": b.Deposit, "cash_above": b.CashAbove} {
		if n, err := Amount(v); err != nil || n == 0 {
			return fmt.Errorf("billing.%s %q: want a number of tokens above zero", key, v)
		}
	}
	if _, err := Wei(b.FeeCap); err != nil {
		return fmt.Errorf("billing.fee_cap: %w", err)
	}
	return c.checkDebts()
}

// mostScan is a third of the notice that the hub gives.
const mostScan = 24 * time.Hour

// checkDebts checks what holds for every way to settle.
func (c *Config) checkDebts() error {
	b := &c.Billing
	if b.Scan <= 0 || b.SettleAfter <= 0 {
		return errors.New("billing.scan and billing.settle_after must be above zero, for example \"1h\" and \"24h\"")
	}
	if time.Duration(b.Scan) > mostScan {
		return fmt.Errorf("billing.scan must be %v at most: a notice to close a channel has to be seen in time", mostScan)
	}
	if b.DueAfter <= 0 || b.Throttle < minThrottle {
		return fmt.Errorf("billing.due_after must be above zero, for example \"48h\", and billing.throttle at least %d bytes a second", minThrottle)
	}
	for key, v := range map[string]string{"settle_above": b.SettleAbove, "credit": b.Credit, "credit_start": b.CreditStart, "credit_strangers": b.CreditStrangers} {
		if _, err := Amount(v); err != nil {
			return fmt.Errorf("billing.%s: %w", key, err)
		}
	}
	return nil
}

// minThrottle is the least rate in bytes a second: a link lets ten cells go, of 1376
// bytes and a few more each.
const minThrottle = 14_000

// checkSpending checks the limits, which need somebody who counts.
func (b *Billing) checkSpending() error {
	for key, v := range map[string]string{"spend_per_day": b.SpendPerDay, "spend_per_neighbor": b.SpendPerNeighbor, "spend_per_gb": b.SpendPerGB} {
		n, err := Amount(v)
		if err != nil {
			return fmt.Errorf("billing.%s: %w", key, err)
		}
		if n > 0 && b.Mode == "none" {
			return fmt.Errorf("billing.%s is a limit on spending, and with billing.mode = \"none\" nothing is spent: set it to \"0\"", key)
		}
	}
	return nil
}

// Amount reads a decimal number of tokens as ledger units (1e-9 token), exactly.
func Amount(s string) (int64, error) { return scaled(s, LedgerUnit, "tokens") }

// Wei reads a decimal number of gwei as wei, exactly.
func Wei(s string) (int64, error) { return scaled(s, 1_000_000_000, "gwei") }

func scaled(s string, unit int64, what string) (int64, error) {
	r, ok := new(big.Rat).SetString(s)
	if !ok || strings.ContainsAny(s, "/eE") {
		return 0, fmt.Errorf("%q: want a decimal number of %s, for example \"0.05\"", s, what)
	}
	r.Mul(r, new(big.Rat).SetInt64(unit))
	if r.Sign() < 0 || !r.IsInt() || !r.Num().IsInt64() {
		return 0, fmt.Errorf("%q: want between 0 and 9000000000 %s, with at most 9 decimals", s, what)
	}
	return r.Num().Int64(), nil
}
