package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// stateVersion is the format of the state file.
const stateVersion = 1

// state is what a lab writes down about itself, so that another process can
// ask about it and remove it.
type state struct {
	Version    int                `json:"version"`
	Options    Options            `json:"options"`
	Namespaces []string           `json:"namespaces"` // made or about to be made
	Processes  map[string]process `json:"processes"`  // running or ended, by node or job
	Keys       map[string]string  `json:"keys"`       // node addresses by node
	Wallets    map[string]wallets `json:"wallets"`    // by node
	Chain      *ChainInfo         `json:"chain,omitempty"`
}

// wallets are a node's addresses on the chain.
type wallets struct {
	Consuming string `json:"consuming"`
	Earning   string `json:"earning"`
}

// ChainInfo is how to reach the lab's chain.
type ChainInfo struct {
	RPC   string `json:"rpc"`
	ID    int64  `json:"id"`
	Token string `json:"token"`
	Hub   string `json:"hub"` // the channel hub, which nodes use with --vouchers
}

// process is one we have started. The start time, in clock ticks since boot,
// tells it from another one that has got its number.
type process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"`
}

// ErrNoLab means that the state folder has no lab.
var ErrNoLab = errors.New("no lab is running here; start one with cuttle-lab up")

// stateFile is the lab's file in its state folder.
const stateFile = "lab.json"

// loadState reads the state of the lab in a folder, ErrNoLab if there is none.
func loadState(folder string) (*state, error) {
	b, err := os.ReadFile(filepath.Join(folder, stateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNoLab
	}
	if err != nil {
		return nil, fmt.Errorf("read state of the lab: %w", err)
	}
	s := new(state)
	if err := json.Unmarshal(b, s); err != nil {
		return nil, fmt.Errorf("read state of the lab: %w", err)
	}
	if s.Version != stateVersion {
		return nil, fmt.Errorf("the lab's state has version %d, this program knows %d: use the cuttle-lab that made it", s.Version, stateVersion)
	}
	if filepath.Clean(s.Options.State) != filepath.Clean(folder) {
		return nil, errors.New("the lab's state is damaged: it belongs to another folder")
	}
	if err := s.Options.Check(); err != nil {
		return nil, fmt.Errorf("the lab's state is damaged: %w", err)
	}
	for _, name := range s.Namespaces {
		if !strings.HasPrefix(name, s.Options.Prefix) || strings.ContainsAny(name, "/\x00") || name == s.Options.Prefix {
			return nil, fmt.Errorf("the lab's state is damaged: %q is no namespace of it", name)
		}
	}
	return s, nil
}

// save replaces the state file in one step.
func (s *state) save() error {
	b, err := json.MarshalIndent(s, "", "\t")
	if err != nil {
		return fmt.Errorf("write state of the lab: %w", err)
	}
	path := filepath.Join(s.Options.State, stateFile)
	if err := os.WriteFile(path+".new", append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("write state of the lab: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("write state of the lab: %w", err)
	}
	return nil
}

// readProcess finds a running process; ok is false when there is none or it is
// a zombie.
func readProcess(pid int) (p process, ok bool) {
	fields, ok := procStat(pid)
	if !ok || fields[0] == "Z" || fields[0] == "X" {
		return process{}, false
	}
	start, err := strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		return process{}, false
	}
	return process{PID: pid, Start: start}, true
}

// procStat gives the fields of /proc/PID/stat (proc(5)) from the third on,
// which follow the program's name in parentheses.
func procStat(pid int) ([]string, bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, false
	}
	i := strings.LastIndexByte(string(b), ')')
	if i < 0 {
		return nil, false
	}
	fields := strings.Fields(string(b[i+1:]))
	return fields, len(fields) > 20
}

// ticksPerSecond is the unit of times in /proc: the kernel's USER_HZ, 100 on
// every architecture Linux runs Go on.
const ticksPerSecond = 100

// cpuTime is what the process has used so far.
func (p process) cpuTime() (time.Duration, bool) {
	fields, ok := procStat(p.PID)
	if !ok || fields[19] != strconv.FormatUint(p.Start, 10) {
		return 0, false
	}
	user, err1 := strconv.ParseInt(fields[11], 10, 64)
	system, err2 := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * time.Second / ticksPerSecond, err1 == nil && err2 == nil
}

// peakMemory is the most bytes the process has had in memory (VmHWM).
func (p process) peakMemory() (int64, bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID))
	if err != nil || !p.alive() {
		return 0, false
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kb << 10, err == nil
		}
	}
	return 0, false
}

// alive tells whether this very process still runs.
func (p process) alive() bool {
	now, ok := readProcess(p.PID)
	return ok && now == p
}
