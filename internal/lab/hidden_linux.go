package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"cuttle/internal/lab/emulate"
	"cuttle/internal/lab/load"
	"cuttle/internal/lab/netns"
	"cuttle/internal/lab/web"
)

// Verbs by which this program is started again for the lab's own processes.
const (
	verbEmulator = "_emulator" // SOCKET SEED
	verbWeb      = "_web"      // CAFILE
	verbLease    = "_lease"    // INTERFACE: prints the name server
	verbUnsure   = "_unsure"   // URL ADDRESS PERCENT: a proxy that loses calls
)

// Hidden does the work of a process that the lab has started from its own
// program, as the arguments tell, and says whether this was one; then the
// process must end. main, and the TestMain of tests that build labs, begin with it.
func Hidden(args []string, stdout, stderr io.Writer) (bool, error) {
	if ours, err := netns.Inside(args); ours {
		return true, err
	}
	if ours, err := load.Hidden(args, stdout, stderr); ours {
		return true, err
	}
	if len(args) < 2 || args[1] != verbEmulator && args[1] != verbWeb && args[1] != verbLease && args[1] != verbUnsure {
		return false, nil
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if args[1] == verbEmulator {
		return true, runEmulator(ctx, args[2:], stdout)
	}
	if args[1] == verbLease {
		return true, runLease(ctx, args[2:], stdout)
	}
	if args[1] == verbUnsure {
		return true, runUnsure(ctx, args[2:], stdout)
	}
	return true, runWeb(ctx, args[2:], stdout)
}

func runEmulator(ctx context.Context, args []string, stdout io.Writer) error {
	if len(args) != 2 {
		return errors.New("emulator: want a socket and a seed")
	}
	seed, err := strconv.ParseUint(args[1], 10, 64)
	if err != nil {
		return fmt.Errorf("emulator: seed: %w", err)
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "unix", args[0])
	if err != nil {
		return fmt.Errorf("emulator: %w", err)
	}
	e, err := emulate.NewEmulator(seed)
	if err != nil {
		return errors.Join(err, ln.Close())
	}
	fmt.Fprintln(stdout, "ready")
	return e.Run(ctx, ln)
}

func runWeb(ctx context.Context, args []string, stdout io.Writer) error {
	if len(args) != 1 {
		return errors.New("web: want a file for the authority's certificate")
	}
	ca, err := web.NewAuthority("cuttle-lab")
	if err != nil {
		return err
	}
	addrs := []netip.Addr{webV4, webV6}
	pair, err := ca.Pair(WebName, addrs)
	if err != nil {
		return err
	}
	if err := os.WriteFile(args[0], ca.PEM(), 0o644); err != nil {
		return fmt.Errorf("write authority: %w", err)
	}
	s, err := web.New(ctx, web.Config{Addresses: addrs, HTTP: 80, HTTPS: 443, DNS: dnsPort, Echo: echoPort, Zone: zone(), TLS: pair})
	if err != nil {
		return err
	}
	fmt.Fprintln(stdout, "ready")
	return s.Run(ctx)
}

// zone is what the lab's DNS knows.
func zone() web.Zone {
	return web.Zone{
		WebName + ".":       {webV4, webV6},
		"v4.lab.":           {webV4},
		"v6.lab.":           {webV6},
		"dual.lab.":         {webV4, publicV6},
		"refused.lab.":      {refusesV4, refusesV6},
		"unreachable.lab.":  {unreachV4A, unreachV6A},
		"blackhole.lab.":    {blackV4A, blackV6A},
		"private.lab.":      {netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fc00::1")},
		"loopback.lab.":     {netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()},
		"metadata.lab.":     {netip.MustParseAddr("169.254.169.254")},
		"empty.lab.":        {},
		"ns.lab.":           {webV4},
		"relay-inside.lab.": {netip.MustParseAddr("10.77.1.2")},
	}
}
