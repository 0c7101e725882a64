package config

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const example = `# the head
[node] # a table
state = "/var/lib/x" # with a comment
log = 'warn'	# and a tab

[client]
  hops = 3     # three
exit = [
  "CH", # first
  "NL",
]

[[neighbor]]
descriptor = "cuttle://x"

[tun]
name = "a#b" # hash inside
`

func TestSetText(t *testing.T) {
	for _, c := range []struct{ key, value, old, new string }{
		{"client.hops", "5", "  hops = 3     # three\n", "  hops = 5     # three\n"},
		{"node.state", "/srv/x", `state = "/var/lib/x" #`, `state = '/srv/x' #`},
		{"node.state", `"/srv/y"`, `state = "/var/lib/x" #`, `state = "/srv/y" #`},
		{"node.log", "debug", "log = 'warn'	# and", "log = 'debug'	# and"},
		{"client.exit", `["SE"]`, "exit = [\n  \"CH\", # first\n  \"NL\",\n]\n", "exit = [\"SE\"]\n"},
		{"client.pool", "2", "[client]\n", "[client]\npool = 2\n"},
		{"tun.name", "cut0", `name = "a#b" #`, `name = 'cut0' #`},
		{"tun.mark", "0x77", "[tun]\n", "[tun]\nmark = 0x77\n"},
		{"relay.price", "4", "hash inside\n", "hash inside\n\n[relay]\nprice = 4\n"},
		{"billing.scan", "30m", "hash inside\n", "hash inside\n\n[billing]\nscan = '30m'\n"},
		{"exit.allow", `["10.9.0.0/16"]`, "hash inside\n", "hash inside\n\n[exit]\nallow = [\"10.9.0.0/16\"]\n"},
	} {
		got, err := SetText([]byte(example), c.key, c.value)
		want := strings.Replace(example, c.old, c.new, 1)
		if err != nil || string(got) != want || want == example {
			t.Errorf("%s = %s: %v; got\n%s\nwant\n%s", c.key, c.value, err, got, want)
			continue
		}
		cfg, err := Parse(got)
		if err != nil {
			t.Errorf("%s = %s: %v", c.key, c.value, err)
			continue
		}
		shown, err := cfg.Get(c.key)
		if trim := func(s string) string { return strings.Trim(s, `"'`) }; err != nil || c.key != "tun.mark" && c.key != "billing.scan" &&
			trim(strings.ReplaceAll(shown, "'", `"`)) != trim(c.value) {
			t.Errorf("get %s after set: got %s, %v; want %s", c.key, shown, err, c.value)
		}
	}
}

func TestSetTextRefuses(t *testing.T) {
	for _, c := range []struct{ key, value, text string }{
		{"client.hop", "5", `unknown key "client.hop"`},
		{"hops", "5", "did you mean client.hops?"},
		{"", "5", "unknown key"},
		{"neighbor.descriptor", "x", "[[neighbor]]"},
		{"client.hops", "7", "want 1 to 6"},
		{"client.hops", "many", "not a value"},
		{"client.hops", "3\npool = 9", "not a value"},
		{"client.hops", "3 # x", ""},
		{"client.hops", `"3"`, "hops"},
		{"client.exit", "CH", "not a value"},
		{"node.metrics", "0.0.0.0:9099", "want a loopback address"},
		{"node.log", "loud", "log"},
	} {
		got, err := SetText([]byte(example), c.key, c.value)
		if c.text == "" {
			if err != nil || !strings.Contains(string(got), "hops = 3 # x     # three") {
				t.Errorf("%s = %q: %v\n%s", c.key, c.value, err, got)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s = %q: got %v, want an error with %q", c.key, c.value, err, c.text)
		}
	}
	if _, err := SetText([]byte("client = {hops = 3}\n"), "client.hops", "4"); err == nil {
		t.Error("an inline table is taken apart")
	}
	if _, err := SetText([]byte("broken = \n"), "client.hops", "4"); err == nil {
		t.Error("a broken file is written to")
	}
}

func TestKeys(t *testing.T) {
	cfg, err := Parse(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range Keys() {
		v, err := cfg.Get(k)
		if err != nil {
			t.Errorf("%s: %v", k, err)
			continue
		}
		if _, err := SetText(defaultFile, k, v); err != nil {
			t.Errorf("setting %s to its own value %s: %v", k, v, err)
		}
	}
	if len(Keys()) < 30 {
		t.Errorf("only %d keys", len(Keys()))
	}
}

func TestSetFile(t *testing.T) {
	folder := t.TempDir()
	path, link := filepath.Join(folder, "real.toml"), filepath.Join(folder, "link.toml")
	if err := os.WriteFile(path, []byte(example), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if err := Set(link, "client.hops", "9"); err == nil {
		t.Error("a value that cannot work is written")
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != example {
		t.Errorf("after a refusal: %v\n%s", err, b)
	}
	if err := Set(link, "client.hops", "2"); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	info, err2 := os.Lstat(path)
	if err != nil || err2 != nil || !bytes.Contains(b, []byte("hops = 2 ")) || info.Mode() != 0o640 {
		t.Errorf("got %v, %v, %v\n%s", err, err2, info.Mode(), b)
	}
	if list, err := os.ReadDir(folder); err != nil || len(list) != 2 {
		t.Errorf("something is left behind: %v, %v", list, err)
	}
}

// FuzzSetText: whatever the file, what Set gives can be read, has the value, and
// setting the old value again gives the same settings.
func FuzzSetText(f *testing.F) {
	f.Add(example)
	f.Add(string(defaultFile))
	f.Add("client.hops = 2\n")
	f.Add("[client]\nhops=2#x")
	f.Add("\"client\".'hops' = 2\r\n[node]\r\n")
	f.Fuzz(func(t *testing.T, text string) {
		out, err := SetText([]byte(text), "client.hops", "4")
		if err != nil {
			return
		}
		cfg, err := Parse(out)
		if err != nil || cfg.Client.Hops != 4 {
			t.Fatalf("%q became %q: %v", text, out, err)
		}
	})
}
