package archtest

import (
	"encoding/json"
	"errors"
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the dependency list")

// may says which of our own packages a package may import, by path below the
// module; a trailing /... allows a tree. A package that is not named here may
// not exist: naming it is the decision where it stands.
var may = map[string][]string{
	"cmd/cuttled":               {"internal/node", "internal/config", "internal/processor", "internal/systemd", "billing/wallet", "tun/hostnet"},
	"cmd/cuttle":                {"internal/control", "internal/config", "internal/selftest", "internal/systemd", "billing", "billing/evm", "billing/wallet/...", "relay/wire"},
	"cmd/cuttle-lab":            {"internal/lab/..."},
	"tun":                       {"internal/nowait"},
	"tun/hostnet":               {},
	"tun/lan":                   {},
	"stack":                     {"tun"},
	"stack/dnscache":            {},
	"relay/wire":                {},
	"relay/onion":               {"relay/wire"},
	"relay/netmap":              {"relay/wire"},
	"relay/link":                {"relay/wire", "relay/onion"},
	"relay/circuit":             {"relay/wire", "relay/onion", "relay/netmap", "relay/link"},
	"relay/session":             {"relay/wire"},
	"relay/session/sessiontest": {"relay/wire"},
	"relay/exit":                {"relay/wire", "relay/session", "internal/nowait"},
	"obfs":                      {"relay/wire"},
	"obfs/plain":                {"obfs"},
	"obfs/https":                {"obfs", "relay/wire"},
	"obfs/obfstest":             {"obfs", "relay/wire"},
	"billing":                   {"relay/wire", "billing/evm", "billing/wallet"},
	"billing/evm":               {"billing/wallet", "billing/evm/erc20", "billing/evm/hub"},
	"billing/evm/erc20":         {},
	"billing/evm/hub":           {},
	"billing/wallet":            {},
	"billing/wallet/phrase":     {},
	"internal/config":           {"relay/exit"},
	"internal/control":          {},
	"internal/systemd":          {},
	"internal/processor":        {},
	"internal/nowait":           {},
	"internal/node":             {"tun/...", "stack", "stack/dnscache", "relay/...", "obfs/...", "billing/...", "internal/config", "internal/control", "internal/nowait", "internal/systemd"},
	"internal/capture":          {},
	"internal/selftest":         {"internal/capture"},
	"internal/lab":              {"internal/lab/...", "internal/capture", "internal/control", "relay/wire", "billing/evm/erc20"},
	"internal/lab/...":          {"internal/lab/...", "internal/capture", "internal/control", "relay/wire", "billing/evm/erc20"},
	"internal/archtest":         {},
}

// only says which packages may import a foreign package or its children.
var only = map[string][]string{
	"gvisor.dev/gvisor":                {"stack"},
	"golang.zx2c4.com/wireguard":       {"tun", "internal/lab/..."},
	"github.com/vishvananda":           {"tun/hostnet", "internal/lab/..."},
	"github.com/google/nftables":       {"tun/hostnet"},
	"github.com/insomniacslk/dhcp":     {"tun/lan", "internal/lab/..."},
	"github.com/mdlayher/ndp":          {"tun/lan"},
	"github.com/godbus/dbus":           {"tun/hostnet"},
	"github.com/ethereum/go-ethereum":  {"billing/evm", "billing/evm/erc20", "billing/evm/hub", "billing/wallet", "billing/wallet/phrase"},
	"modernc.org/sqlite":               {"billing"},
	"github.com/refraction-networking": {"obfs/https"},
	"github.com/spf13/cobra":           {"cmd/cuttle"},
	"github.com/pelletier/go-toml":     {"internal/config"},
	"github.com/miekg/dns":             {"relay/exit", "stack", "internal/lab/..."},
}

// pure packages: bytes in, bytes out.
var pure = []string{"relay/wire", "relay/onion", "relay/netmap"}

// impure is what a pure package may not import, with the reason.
var impure = map[string]string{
	"net":      "no sockets (net/netip is fine)",
	"os":       "no files",
	"log":      "no logs",
	"net/http": "no sockets",
	"io/fs":    "no files",
	"syscall":  "no system calls",
}

// values are packages of which a pure package may use these names and no other:
// a time may be an argument and a value may hide itself from a log, but nothing
// reads a clock or writes a log.
var values = map[string][]string{
	"time":     {"Time", "Duration", "Unix", "Second", "Minute", "Hour"},
	"log/slog": {"Value", "StringValue"},
}

type pkg struct {
	ImportPath, Dir, Name, Doc string
	Imports, GoFiles           []string
}

func (p pkg) path() string {
	return strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, "cuttle"), "/")
}

func list(t *testing.T, env ...string) []pkg {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Dir,Name,Doc,Imports,GoFiles", "./...")
	cmd.Dir = filepath.Join("..", "..")
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var ps []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		ps = append(ps, p)
	}
	if len(ps) < 20 {
		t.Fatalf("go list found %d packages, want the whole module", len(ps))
	}
	return ps
}

func match(patterns []string, path string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		if tree, ok := strings.CutSuffix(p, "/..."); ok {
			return path == tree || strings.HasPrefix(path, tree+"/")
		}
		return p == path
	})
}

// row finds the table's row for a package: its own, or the tree it is in.
func row(path string) ([]string, bool) {
	if r, ok := may[path]; ok {
		return r, true
	}
	for p, r := range may {
		if strings.HasSuffix(p, "/...") && match([]string{p}, path) {
			return r, true
		}
	}
	return nil, false
}

func TestImportTable(t *testing.T) {
	for _, goos := range []string{"linux", "darwin"} {
		for _, p := range list(t, "GOOS="+goos) {
			allowed, ok := row(p.path())
			if !ok {
				t.Errorf("%s is not in the import table: say there what it may import", p.path())
				continue
			}
			for _, imp := range p.Imports {
				if ours, ok := strings.CutPrefix(imp, "cuttle/"); ok {
					if !match(allowed, ours) {
						t.Errorf("%s imports %s, which the table does not allow", p.path(), ours)
					}
					continue
				}
				for foreign, users := range only {
					if (imp == foreign || strings.HasPrefix(imp, foreign+"/")) && !match(users, p.path()) {
						t.Errorf("%s imports %s, which only %v may", p.path(), imp, users)
					}
				}
				if reason, bad := impure[imp]; bad && slices.Contains(pure, p.path()) {
					t.Errorf("%s imports %s: it is pure, %s", p.path(), imp, reason)
				}
			}
		}
	}
}

// TestPureNames looks at what pure packages use of the packages in values.
func TestPureNames(t *testing.T) {
	seen := 0
	for _, p := range list(t) {
		if !slices.Contains(pure, p.path()) {
			continue
		}
		for _, f := range p.GoFiles {
			set := token.NewFileSet()
			file, err := parser.ParseFile(set, filepath.Join(p.Dir, f), nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(file, func(n ast.Node) bool {
				sel, ok := n.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				id, ok := sel.X.(*ast.Ident)
				if !ok || id.Obj != nil {
					return true
				}
				for imp, names := range values {
					if id.Name == path.Base(imp) {
						seen++
						if !slices.Contains(names, sel.Sel.Name) {
							t.Errorf("%v: %s.%s in a pure package", set.Position(n.Pos()), id.Name, sel.Sel.Name)
						}
					}
				}
				return true
			})
		}
	}
	if seen == 0 {
		t.Error("found no use of time or slog at all: the test looks in the wrong place")
	}
}

// TestPackageDocs wants one package comment, in the file named after the
// package or in doc.go or main.go, that says more than the name.
func TestPackageDocs(t *testing.T) {
	for _, p := range list(t) {
		var where []string
		for _, f := range p.GoFiles {
			file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, f), nil, parser.PackageClauseOnly|parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			if file.Doc != nil && strings.TrimSpace(file.Doc.Text()) != "" {
				where = append(where, f)
				if len(file.Doc.Text()) < 150 {
					t.Errorf("%s: package comment of %d bytes does not say what it does, refuses and who calls it", p.path(), len(file.Doc.Text()))
				}
			}
		}
		if len(p.GoFiles) > 0 && (len(where) != 1 || !slices.Contains([]string{p.Name + ".go", filepath.Base(p.Dir) + ".go", "doc.go", "main.go"}, where[0])) {
			t.Errorf("%s: package comment in %v, want it once, in %s.go", p.path(), where, filepath.Base(p.Dir))
		}
	}
}

// TestDaemonLinks says what the daemon must not link, whatever its list of
// dependencies holds: the chain itself, which is the lab's, and what only the
// command needs.
func TestDaemonLinks(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "./cmd/cuttled")
	cmd.Dir = filepath.Join("..", "..")
	cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH=amd64", "CGO_ENABLED=0")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list -deps: %v", err)
	}
	const geth = "github.com/ethereum/go-ethereum/"
	linked := strings.Fields(string(out))
	if !slices.Contains(linked, geth+"ethclient") {
		t.Fatal("the daemon does not link go-ethereum's client: the test looks in the wrong place")
	}
	for _, p := range linked {
		for _, no := range []string{geth + "ethclient/simulated", geth + "eth", geth + "core/vm", geth + "core/state", geth + "node", geth + "p2p/discover",
			"cuttle/internal/lab", "cuttle/billing/wallet/phrase", "github.com/spf13/cobra"} {
			if p == no || strings.HasPrefix(p, no+"/") {
				t.Errorf("%s is linked into the daemon", p)
			}
		}
	}
	t.Logf("cuttled links %d packages", len(linked))
}

// TestDependencies compares the packages linked into the two user commands
// with the committed list, so that a new one is a decision.
func TestDependencies(t *testing.T) {
	const golden = "dependencies.txt"
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", "./cmd/cuttled", "./cmd/cuttle")
	cmd.Dir = filepath.Join("..", "..")
	cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH=amd64", "CGO_ENABLED=0")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list -deps: %v", err)
	}
	got := strings.Fields(string(out))
	slices.Sort(got)
	got = slices.Compact(got)
	for _, p := range got {
		if strings.Contains(p, "ethclient/simulated") || strings.Contains(p, "go-ethereum/eth/") || strings.Contains(p, "go-ethereum/core/vm") {
			t.Errorf("%s is linked into the daemon: the chain itself belongs to the lab's own module", p)
		}
	}
	text := strings.Join(got, "\n") + "\n"
	if *update {
		if err := os.WriteFile(golden, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if text != string(want) {
		wantList := strings.Fields(string(want))
		for _, p := range got {
			if !slices.Contains(wantList, p) {
				t.Errorf("new dependency %s", p)
			}
		}
		for _, p := range wantList {
			if !slices.Contains(got, p) {
				t.Errorf("no longer linked: %s", p)
			}
		}
		t.Errorf("decide, then: go test ./internal/archtest -run Dependencies -update")
	}
}
