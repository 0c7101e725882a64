// Command cuttle-lab-chain is the lab's own chain: geth itself in one process,
// with JSON-RPC over HTTP, today's rules (Prague), a block every half second,
// the test token deployed, and one rich key that pays newcomers.
//
// It is a Go module of its own so that the full node never gets into the
// daemon's dependencies. It keeps nothing: each start is a new chain. It is
// started by cuttle-lab inside the namespace cuttle-chain and by nobody else;
// anybody who reaches its second port can have token and gas from it.
//
//	cuttle-lab-chain -listen 10.99.1.2:8545 -faucet 10.99.1.2:8546
//
// When it serves, it prints one line of JSON: {"rpc","faucet","id","token","hub","faucet_address"}.
// POST /fund with {"address","gas","token"} (decimal strings, smallest units)
// sends both by real transactions and answers when they are in a block.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/log"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:8545", "address and port of the JSON-RPC")
	faucet := flag.String("faucet", "127.0.0.1:8546", "address and port of the faucet")
	id := flag.Int64("id", 1337, "chain id")
	period := flag.Duration("period", 500*time.Millisecond, "time between blocks")
	flag.Parse()
	log.SetDefault(log.NewLogger(log.NewTerminalHandlerWithLevel(os.Stderr, log.LevelError, false)))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *listen, *faucet, *id, *period, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "cuttle-lab-chain:", err)
		os.Exit(1)
	}
}

// ready is the line that tells the lab that the chain serves.
type ready struct {
	RPC           string         `json:"rpc"`
	Faucet        string         `json:"faucet"`
	ID            int64          `json:"id"`
	Token         common.Address `json:"token"`
	Hub           common.Address `json:"hub"`
	FaucetAddress common.Address `json:"faucet_address"`
}

// run serves until ctx ends.
func run(ctx context.Context, listen, faucetAddr string, id int64, period time.Duration, out io.Writer) error {
	host, portText, err := net.SplitHostPort(listen)
	if err != nil {
		return fmt.Errorf("listen address: %w", err)
	}
	port, err := strconv.Atoi(portText)
	if err != nil {
		return fmt.Errorf("listen port: %w", err)
	}
	chain, err := startChain(host, port, id)
	if err != nil {
		return err
	}
	sealing := make(chan struct{})
	go func() { // ends with ctx; waited for below, before the chain is closed
		defer close(sealing)
		chain.seal(ctx, period)
	}()
	err = serve(ctx, chain, listen, faucetAddr, out)
	<-sealing
	return errors.Join(err, chain.backend.Close())
}

// serve deploys the token, announces the chain and answers the faucet's port
// until ctx ends.
func serve(ctx context.Context, chain *chain, listen, faucetAddr string, out io.Writer) error {
	if err := chain.deploy(ctx); err != nil {
		return fmt.Errorf("deploy token: %w", err)
	}
	ln, err := net.Listen("tcp", faucetAddr)
	if err != nil {
		return fmt.Errorf("listen for the faucet: %w", err)
	}
	server := &http.Server{Handler: chain.handler(), ReadHeaderTimeout: 10 * time.Second}
	ended := make(chan struct{})
	go func() { // ends when ctx does, or right after Serve
		defer close(ended)
		<-ctx.Done()
		_ = server.Close()
	}()
	line := ready{RPC: "http://" + listen, Faucet: "http://" + faucetAddr, ID: chain.id.Int64(), Token: chain.token, Hub: chain.hub, FaucetAddress: chain.from}
	if err := json.NewEncoder(out).Encode(line); err != nil {
		return fmt.Errorf("announce the chain: %w", errors.Join(err, server.Close(), ln.Close()))
	}
	err = server.Serve(ln)
	if ctx.Err() != nil {
		<-ended
		return nil
	}
	return fmt.Errorf("serve the faucet: %w", err)
}
