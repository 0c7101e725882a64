package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"cuttle/internal/lab/emulate"
	"cuttle/internal/lab/netns"

	"golang.org/x/sync/errgroup"
)

// What every consuming wallet of the lab begins with, in smallest units.
const (
	startGas   = "10000000000000000000"   // 10 of the chain's coin
	startToken = "1000000000000000000000" // 1000 tokens
)

// Names of the processes that are no nodes of their own.
const (
	emulatorJob = "net"
	unsureJob   = "rpc"
)

// startOutside starts the emulator, the web server and the chain.
func (l *Lab) startOutside(ctx context.Context) error {
	var line []byte
	self := "/proc/self/exe"
	err := l.start(ctx, emulatorJob, l.plan.Router, &line, self, verbEmulator, l.opts.file(emulatorSock), strconv.FormatUint(l.opts.Seed, 10))
	if err != nil {
		return err
	}
	web, _ := l.plan.Node("web")
	if err := l.start(ctx, web.Name, web.Namespace, &line, self, verbWeb, l.opts.file(caFile)); err != nil {
		return err
	}
	if !l.opts.Billing {
		return nil
	}
	chain, _ := l.plan.Node("chain")
	err = l.start(ctx, chain.Name, chain.Namespace, &line, filepath.Join(l.opts.Bin, "cuttle-lab-chain"), "-id", strconv.Itoa(chainID),
		"-listen", netip.AddrPortFrom(chainV4, chainPort).String(), "-faucet", netip.AddrPortFrom(chainV4, faucetPort).String())
	if err != nil {
		return err
	}
	l.state.Chain = new(ChainInfo)
	if err := json.Unmarshal(line, l.state.Chain); err != nil {
		return fmt.Errorf("understand the chain: %w", err)
	}
	if l.opts.RPCFail == 0 {
		return nil
	}
	return l.start(ctx, unsureJob, chain.Namespace, &line, self, verbUnsure, rpcURL(), netip.AddrPortFrom(chainV4, unsurePort).String(), strconv.Itoa(l.opts.RPCFail))
}

// daemon runs a short verb of cuttled and returns what it prints.
func (l *Lab) daemon(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(l.opts.Bin, "cuttled"), args...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("cuttled %s: %w\n%s", args[0], err, strings.TrimSpace(stderr.String()))
	}
	return strings.TrimSpace(string(out)), nil
}

// each calls f for every node that runs cuttled, two at a time, and gives what
// it returned by name.
func (l *Lab) each(ctx context.Context, f func(context.Context, Node) (string, error)) (map[string]string, error) {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(2)
	results := make([]string, len(l.plan.Nodes))
	for i, n := range l.plan.Nodes {
		if !n.Runs() {
			continue
		}
		g.Go(func() (err error) { // ends with f, which ctx ends
			results[i], err = f(ctx, n)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	byName := make(map[string]string)
	for i, n := range l.plan.Nodes {
		if n.Runs() {
			byName[n.Name] = results[i]
		}
	}
	return byName, nil
}

// makeKeys has every daemon make its identity.
func (l *Lab) makeKeys(ctx context.Context) (err error) {
	l.state.Keys, err = l.each(ctx, func(ctx context.Context, n Node) (string, error) {
		folder := l.opts.fileOf(n.Name, stateFolder)
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return "", fmt.Errorf("make state folder: %w", err)
		}
		return l.daemon(ctx, "identity", "-state", folder)
	})
	return err
}

// makeWallets gives every node a consuming wallet with gas and token and an
// earning address.
func (l *Lab) makeWallets(ctx context.Context) error {
	if !l.opts.Billing {
		return nil
	}
	if err := os.WriteFile(l.opts.file(passwordFile), []byte("lab\n"), 0o600); err != nil {
		return fmt.Errorf("write password: %w", err)
	}
	pairs, err := l.each(ctx, func(ctx context.Context, n Node) (string, error) {
		var pair []string
		for _, file := range []string{consumingFile, earningFile} {
			address, err := l.daemon(ctx, "wallet", "-light", "-password-file", l.opts.file(passwordFile), "-out", l.opts.fileOf(n.Name, file))
			if err != nil {
				return "", err
			}
			pair = append(pair, address)
		}
		return strings.Join(pair, " "), nil
	})
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(16) // all that the chain's pool takes of one sender at once
	for name, pair := range pairs {
		consuming, earning, _ := strings.Cut(pair, " ")
		l.state.Wallets[name] = wallets{Consuming: consuming, Earning: earning}
		g.Go(func() error { return l.Fund(ctx, consuming, startGas, startToken) }) // ends with its request
	}
	return g.Wait()
}

// Fund sends gas and token (decimal, smallest units; empty for none) from the
// chain's rich key to an address and waits for the block.
func (l *Lab) Fund(ctx context.Context, address, gas, token string) error {
	body, err := json.Marshal(map[string]string{"address": address, "gas": gas, "token": token})
	if err != nil {
		return fmt.Errorf("fund %s: %w", address, err)
	}
	url := "http://" + netip.AddrPortFrom(chainV4, faucetPort).String() + "/fund"
	return l.post(ctx, url, body, nil)
}

// httpIn is a client whose connections come from inside a namespace. URLs must
// have IP addresses.
func httpIn(namespace string) *http.Client {
	return &http.Client{
		Timeout: readyTimeout,
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				return netns.Dial(ctx, namespace, network, address)
			},
		},
	}
}

// writeConfigs writes every node's file, then gathers the relays' records into
// the map.
func (l *Lab) writeConfigs(ctx context.Context) error {
	k := keys{nodes: l.state.Keys, earning: make(map[string]string)}
	for name, w := range l.state.Wallets {
		k.earning[name] = w.Earning
	}
	if l.state.Chain != nil {
		k.token, k.hub = l.state.Chain.Token, l.state.Chain.Hub
	}
	if err := os.WriteFile(l.opts.file(mapFile), nil, 0o600); err != nil {
		return fmt.Errorf("write map: %w", err)
	}
	records, err := l.each(ctx, func(ctx context.Context, n Node) (string, error) {
		file := l.opts.fileOf(n.Name, configFile)
		if err := os.WriteFile(file, []byte(l.plan.render(n, k)), 0o600); err != nil {
			return "", fmt.Errorf("write configuration: %w", err)
		}
		if !n.Relays() {
			return "", nil
		}
		return l.daemon(ctx, "record", "-config", file)
	})
	if err != nil {
		return err
	}
	var b strings.Builder
	for _, n := range l.plan.Nodes {
		if n.Relays() {
			fmt.Fprintf(&b, "# %s\n%s\n", n.Name, records[n.Name])
		}
	}
	if err := os.WriteFile(l.opts.file(mapFile), []byte(b.String()), 0o600); err != nil {
		return fmt.Errorf("write map: %w", err)
	}
	return nil
}

// shapeAll applies the options' shape to every path it is for.
func (l *Lab) shapeAll(ctx context.Context) error {
	if l.opts.Shape.IsZero() {
		return nil
	}
	return l.shape(ctx, l.opts.Shape, l.plan.Shaped()...)
}

func (l *Lab) shape(ctx context.Context, s emulate.Shape, pairs ...[2]Node) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var requests []emulate.Request
	for _, p := range pairs {
		requests = append(requests, emulate.Request{A: p[0].Hosts(), B: p[1].Hosts(), Shape: s})
	}
	return emulate.Ask(ctx, l.opts.file(emulatorSock), requests...)
}
