// Command cuttle is what people type: it asks the daemon behind the control
// socket and prints the answer. Of itself it edits the configuration file, makes
// and empties wallets (billing/wallet, billing/evm) and reads ledger files
// (billing); the rest is the daemon's.
//
// Exit codes: 0 connected (or done), 3 disconnected, 4 connecting, 5 blocked or an
// error, 10 not permitted, 2 a wrong command line.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Getenv, os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
