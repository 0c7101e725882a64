// Package config reads cuttled's TOML file into one checked value.
//
// It refuses what it does not know: an unknown key is an error that names the
// key and its line. It opens no socket and changes nothing; it reads one file,
// when Load is called. cmd/cuttled and internal/node use it; a Config is not
// changed after Load and so needs no lock.
package config

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"time"

	"github.com/pelletier/go-toml/v2"
)

//go:embed default.toml
var defaultFile []byte

// Default returns the commented default file, as packaging installs it.
func Default() []byte { return bytes.Clone(defaultFile) }

// Config is a node's configuration: the tables of the file.
type Config struct {
	Node     Node       `toml:"node"`
	Listen   []Listen   `toml:"listen"`
	Neighbor []Neighbor `toml:"neighbor"`
	Client   Client     `toml:"client"`
	Tun      Tun        `toml:"tun"`
	LAN      LAN        `toml:"lan"`
	Split    Split      `toml:"split"`
	Router   Router     `toml:"router"`
	Relay    Relay      `toml:"relay"`
	Exit     Exit       `toml:"exit"`
	Billing  Billing    `toml:"billing"`
}

// Node is the [node] table.
type Node struct {
	State         string     `toml:"state"`
	Control       string     `toml:"control"`
	ControlGroup  string     `toml:"control_group"`
	Map           string     `toml:"map"`
	Log           slog.Level `toml:"log"`
	Relay         bool       `toml:"relay"`
	Exit          bool       `toml:"exit"`
	Country       string     `toml:"country"`
	AcceptClients bool       `toml:"accept_clients"`
	Metrics       string     `toml:"metrics"`
}

// Listen is one [[listen]] table: a mask on an address.
type Listen struct {
	Mask    string            `toml:"mask"`
	Address string            `toml:"address"`
	Options map[string]string `toml:"options"`
}

// Neighbor is one [[neighbor]] table.
type Neighbor struct {
	Descriptor string `toml:"descriptor"`
}

// Client is the [client] table: capture of this machine's traffic.
type Client struct {
	Enabled bool     `toml:"enabled"`
	Up      bool     `toml:"up"`
	Hops    int      `toml:"hops"`
	Exit    []string `toml:"exit"`
	Pool    int      `toml:"pool"`
	MaxTier int      `toml:"max_tier"`
	Isolate []string `toml:"isolate"`
	Early   string   `toml:"early"`

	DNSCache int `toml:"dns_cache"` // MiB
}

// Tun is the [tun] table.
type Tun struct {
	Name       string `toml:"name"`
	MTU        int    `toml:"mtu"`
	Mark       uint32 `toml:"mark"`
	Table      int    `toml:"table"`
	ResolvConf string `toml:"resolv_conf"`
}

// Relay is the [relay] table.
type Relay struct {
	Price  int `toml:"price"`
	Window int `toml:"window"`
	Memory int `toml:"memory"`
}

// Exit is the [exit] table.
type Exit struct {
	Price  int            `toml:"price"`
	Allow  []netip.Prefix `toml:"allow"`
	Policy []string       `toml:"policy"`

	ConnectTimeout  Duration `toml:"connect_timeout"`
	ResolveTimeout  Duration `toml:"resolve_timeout"`
	TCPIdle         Duration `toml:"tcp_idle"`
	TCPHalfClosed   Duration `toml:"tcp_half_closed"`
	UDPIdle         Duration `toml:"udp_idle"`
	Connections     int      `toml:"connections"`
	Rate            int      `toml:"rate"`
	Queries         int      `toml:"queries"`
	ClientRate      int      `toml:"client_rate"`
	ClientBurst     int      `toml:"client_burst"`
	ClientQueries   int      `toml:"client_queries"`
	ClientQueryRate int      `toml:"client_query_rate"`

	NeighborConnections int `toml:"neighbor_connections"`
	NeighborRate        int `toml:"neighbor_rate"`
	NeighborQueries     int `toml:"neighbor_queries"`
	NeighborQueryRate   int `toml:"neighbor_query_rate"`

	Resolver string `toml:"resolver"`
}

// Rules are those of the exit's policy, exit.allow in front.
func (e *Exit) Rules() []string {
	var out []string
	for _, n := range e.Allow {
		out = append(out, "allow "+n.String())
	}
	return append(out, e.Policy...)
}

// Billing is the [billing] table. Amounts are decimal numbers of tokens.
type Billing struct {
	Mode               string   `toml:"mode"`
	Chain              string   `toml:"chain"`
	ChainID            uint64   `toml:"chain_id"`
	RPC                []string `toml:"rpc"`
	RPCThroughCircuits bool     `toml:"rpc_through_circuits"`
	Token              string   `toml:"token"`
	Confirmations      uint64   `toml:"confirmations"`
	Scan               Duration `toml:"scan"`
	SettleAbove        string   `toml:"settle_above"`
	SettleAfter        Duration `toml:"settle_after"`
	Credit             string   `toml:"credit"`
	CreditStart        string   `toml:"credit_start"`
	CreditStrangers    string   `toml:"credit_strangers"`
	DueAfter           Duration `toml:"due_after"`
	Throttle           int      `toml:"throttle"`
	SpendPerDay        string   `toml:"spend_per_day"`
	SpendPerNeighbor   string   `toml:"spend_per_neighbor"`
	SpendPerGB         string   `toml:"spend_per_gb"`
	FeeCap             string   `toml:"fee_cap"`
	Hub                string   `toml:"hub"`
	Window             string   `toml:"window"`
	Deposit            string   `toml:"deposit"`
	CashAbove          string   `toml:"cash_above"`
	Consuming          string   `toml:"consuming"`
	PasswordFile       string   `toml:"password_file"`
	Earning            string   `toml:"earning"`
}

// Duration is a time.Duration written as "90s", "1h30m".
type Duration time.Duration

// UnmarshalText reads what time.ParseDuration reads.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil {
		return fmt.Errorf("%q is not a duration; write for example \"90s\" or \"1h\"", b)
	}
	*d = Duration(v)
	return nil
}

// MarshalText writes it so that UnmarshalText reads it.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// Load reads and checks the file at path. Values it does not give are those of
// the default file. Errors name the file, the line where there is one, the key
// and what to write instead.
func Load(path string) (*Config, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	c, err := Parse(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// Parse is Load for bytes.
func Parse(b []byte) (*Config, error) {
	var c Config
	if err := decode(defaultFile, &c); err != nil {
		return nil, fmt.Errorf("default file: %w", err)
	}
	if err := decode(b, &c); err != nil {
		return nil, err
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	return &c, nil
}

func decode(b []byte, c *Config) error {
	defaults := c.Billing
	err := toml.NewDecoder(bytes.NewReader(b)).DisallowUnknownFields().Decode(c)
	if err == nil {
		return c.Billing.fill(&defaults)
	}
	var strict *toml.StrictMissingError
	if errors.As(err, &strict) {
		e := strict.Errors[0]
		line, _ := e.Position()
		return fmt.Errorf("line %d: unknown key %q; see the commented default file for the names", line, dotted(e.Key()))
	}
	var bad *toml.DecodeError
	if errors.As(err, &bad) {
		line, _ := bad.Position()
		if len(bad.Key()) > 0 {
			return fmt.Errorf("line %d: %s: %w", line, dotted(bad.Key()), bad)
		}
		return fmt.Errorf("line %d: %w", line, bad)
	}
	return err
}

func dotted(k toml.Key) string {
	var s []byte
	for i, p := range k {
		if i > 0 {
			s = append(s, '.')
		}
		s = append(s, p...)
	}
	return string(s)
}
