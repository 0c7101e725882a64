package main

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestLaunchd wants launchd's property lists to call cuttled as it can be called:
// all that may fail is that the configuration is not there.
func TestLaunchd(t *testing.T) {
	files, err := filepath.Glob("../../packaging/launchd/*.plist")
	if err != nil || len(files) != 2 {
		t.Fatalf("property lists %v (%v), want two", files, err)
	}
	for _, file := range files {
		texts := plistTexts(t, file)
		label := strings.TrimSuffix(filepath.Base(file), ".plist")
		if i := slices.Index(texts, "Label"); i < 0 || texts[i+1] != label {
			t.Errorf("%s: its label is not %q, as launchd wants", file, label)
		}
		first, last := slices.Index(texts, "ProgramArguments")+2, slices.Index(texts, "RunAtLoad")
		if first < 2 || last < first {
			t.Fatalf("%s: no arguments before RunAtLoad", file)
		}
		args := texts[first:last]
		for i, a := range args {
			if a == "/etc/cuttle/cuttled.toml" {
				args[i] = filepath.Join(t.TempDir(), "missing.toml")
			}
		}
		if _, err := call(t, args...); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: cuttled %v gives %v, want nothing but a missing file", file, args, err)
		}
	}
}

// plistTexts lists the keys and strings of a property list in order.
func plistTexts(t *testing.T, file string) []string {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var out []string
	for d, in := xml.NewDecoder(f), ""; ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return out
		}
		switch token := token.(type) {
		case nil:
			t.Fatalf("%s: %v", file, err)
		case xml.StartElement:
			in = token.Name.Local
		case xml.EndElement:
			in = ""
		case xml.CharData:
			if in == "key" || in == "string" {
				out = append(out, string(token))
			}
		}
	}
}
