package peer

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"cuttle/internal/lab/netns"
)

const (
	torProgram = "tor" // a link into the tree of Debian's package
	torGencert = "tor-gencert"
	torORPort  = 5000
	torDirPort = 7000
	torSOCKS   = 9050
	torLimit   = 3 * time.Minute // until a private network has a consensus and the client a circuit
)

// torCommon makes the network votes quickly and lets a few nodes on few networks
// be everything. The two consensus parameters are the public network's.
const torCommon = `TestingTorNetwork 1
AssumeReachable 1
ShutdownWaitLength 0
EnforceDistinctSubnets 0
PathsNeededToBuildCircuits 0.67
DisableDebuggerAttachment 0
Log notice stdout
`

const torAuthority = `AuthoritativeDirectory 1
V3AuthoritativeDirectory 1
V3AuthVotingInterval 20
V3AuthVoteDelay 4
V3AuthDistDelay 4
TestingV3AuthInitialVotingInterval 10
TestingV3AuthInitialVoteDelay 3
TestingV3AuthInitialDistDelay 3
TestingDirAuthVoteGuard *
TestingDirAuthVoteExit *
TestingMinExitFlagThreshold 0
ConsensusParams cc_alg=2 KISTSchedRunInterval=2
`

var (
	v3Identity  = regexp.MustCompile(`(?m)^fingerprint ([0-9A-F]{40})`)
	fingerprint = regexp.MustCompile(`(?m)^\S+ ([0-9A-F ]{40,})$`)
)

// tor runs every hop as relay and directory authority, since one authority for
// three relays would make no difference to what is measured, and a client with a
// SOCKS port. Only the last hop allows exits.
func tor(ctx context.Context, s *site) (string, error) {
	var authorities strings.Builder
	files := make(map[string]string)
	for _, hop := range s.hops {
		text, line, err := s.torHop(ctx, hop)
		if err != nil {
			return "", err
		}
		files[hop] = text
		authorities.WriteString(line)
	}
	for _, hop := range s.hops {
		if err := s.startTor(ctx, hop, files[hop]+authorities.String()); err != nil {
			return "", err
		}
	}
	folder, err := s.lab.Folder(guest(s.client))
	if err != nil {
		return "", err
	}

	text := torCommon + fmt.Sprintf("DataDirectory %s\nSocksPort %d\nUseMicrodescriptors 0\n", filepath.Join(folder, "data"), torSOCKS) + authorities.String()
	if err := s.startTor(ctx, s.client, text); err != nil {
		return "", err
	}
	log := filepath.Join(folder, "log")
	err = s.until(ctx, guest(s.client), torLimit, func() (bool, error) {
		b, err := os.ReadFile(log)
		if err != nil {
			return false, err
		}
		return strings.Contains(string(b), "Bootstrapped 100%"), nil
	})
	if err != nil {
		return "", err
	}
	return "socks5://" + netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), torSOCKS).String(), nil
}

// torHop makes a hop's keys; it gives its configuration and the line by which
// others know it as an authority.
func (s *site) torHop(ctx context.Context, hop string) (config, authority string, err error) {
	folder, err := s.lab.Folder(guest(hop))
	if err != nil {
		return "", "", err
	}
	keys := filepath.Join(folder, "data", "keys")
	if err := os.MkdirAll(keys, 0o700); err != nil {
		return "", "", fmt.Errorf("make folder: %w", err)
	}
	address := s.address(hop)
	dir := netip.AddrPortFrom(address, torDirPort)
	config = torCommon + torAuthority + fmt.Sprintf("DataDirectory %s\nNickname %s\nAddress %s\nORPort %s\nDirPort %s\nSocksPort 0\nContactInfo lab\n",
		filepath.Dir(keys), hop, address, netip.AddrPortFrom(address, torORPort), dir)
	if hop == s.hops[len(s.hops)-1] {
		config += "ExitRelay 1\nExitPolicyRejectPrivate 0\nExitPolicy accept *:*\n"
	} else {
		config += "ExitRelay 0\nExitPolicy reject *:*\n"
	}
	certificate := filepath.Join(keys, "authority_certificate")
	if _, err := s.torTool(ctx, hop, "\n", torGencert, "--create-identity-key", "-m", "12", "-a", dir.String(), "--passphrase-fd", "0",
		"-i", filepath.Join(keys, "authority_identity_key"), "-s", filepath.Join(keys, "authority_signing_key"), "-c", certificate); err != nil {
		return "", "", err
	}
	cert, err := os.ReadFile(certificate)
	if err != nil {
		return "", "", fmt.Errorf("read authority's certificate: %w", err)
	}
	v3 := v3Identity.FindSubmatch(cert)
	// A place-holder, as an authority must know some: the real lines come when all have keys.
	file, err := s.write(guest(hop), "keys.rc", []byte(config+fmt.Sprintf("DirAuthority %s orport=%d no-v2 %s %s\n", hop, torORPort, dir, strings.Repeat("F", 40))))
	if err != nil {
		return "", "", err
	}
	out, err := s.torTool(ctx, hop, "", torProgram, "--list-fingerprint", "--hush", "-f", file)
	if err != nil {
		return "", "", err
	}
	own := fingerprint.FindStringSubmatch(out)
	if v3 == nil || own == nil {
		return "", "", fmt.Errorf("%s's keys were not made: %s", hop, strings.TrimSpace(out))
	}
	return config, fmt.Sprintf("DirAuthority %s orport=%d v3ident=%s %s %s\n", hop, torORPort, v3[1], dir, strings.ReplaceAll(own[1], " ", "")), nil
}

// torTool runs one of the package's programs to its end.
func (s *site) torTool(ctx context.Context, node, input, program string, args ...string) (string, error) {
	cmd := netns.Command(ctx, s.namespace(node), append([]string{filepath.Join(s.folder, program)}, args...)...)
	cmd.Stdin = strings.NewReader(input)
	cmd.Env = append(os.Environ(), "HOME="+s.folder)
	out, err := cmd.Output()
	if err != nil {
		text := ""
		if e, ok := err.(*exec.ExitError); ok { //nolint:errorlint // Output gives it unwrapped
			text = string(e.Stderr)
		}
		return "", fmt.Errorf("%s: %w: %s", program, err, strings.TrimSpace(text+string(out)))
	}
	return string(out), nil
}

func (s *site) startTor(ctx context.Context, node, config string) error {
	file, err := s.write(guest(node), "torrc", []byte(config))
	if err != nil {
		return err
	}
	return s.run(ctx, guest(node), node, torProgram, "-f", file)
}
