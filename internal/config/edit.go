package config

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// Keys lists the keys that Get and Set know, such as "client.hops", in the order
// of the default file. The tables that may come several times ([[listen]],
// [[neighbor]]) are not among them.
func Keys() []string {
	var keys []string
	tables := reflect.TypeFor[Config]()
	for i := range tables.NumField() {
		table := tables.Field(i)
		if table.Type.Kind() != reflect.Struct {
			continue
		}
		for j := range table.Type.NumField() {
			keys = append(keys, table.Tag.Get("toml")+"."+table.Type.Field(j).Tag.Get("toml"))
		}
	}
	return keys
}

// field finds the value of a key.
func (c *Config) field(key string) (reflect.Value, error) {
	table, name, _ := strings.Cut(key, ".")
	tables := reflect.ValueOf(c).Elem()
	for i := range tables.NumField() {
		if tables.Type().Field(i).Tag.Get("toml") != table {
			continue
		}
		t := tables.Field(i)
		if t.Kind() != reflect.Struct {
			return t, fmt.Errorf("[[%s]] may come several times: edit the file for it", table)
		}
		for j := range t.NumField() {
			if t.Type().Field(j).Tag.Get("toml") == name {
				return t.Field(j), nil
			}
		}
	}
	return reflect.Value{}, unknownKey(key)
}

func unknownKey(key string) error {
	for _, k := range Keys() {
		if _, name, _ := strings.Cut(k, "."); name == key || strings.HasSuffix(key, "."+name) {
			return fmt.Errorf("unknown key %q; did you mean %s?", key, k)
		}
	}
	return fmt.Errorf("unknown key %q; want one of %s", key, strings.Join(Keys(), ", "))
}

// Get gives the value of a key as TOML: the file's, or the default.
func (c *Config) Get(key string) (string, error) {
	v, err := c.field(key)
	if err != nil {
		return "", err
	}
	value := v.Interface()
	if text, ok := value.(encoding.TextMarshaler); ok {
		b, err := text.MarshalText()
		if err != nil {
			return "", fmt.Errorf("%s: %w", key, err)
		}
		value = strings.ToLower(string(b))
	}
	line, err := toml.Marshal(map[string]any{"v": value})
	if err != nil {
		return "", fmt.Errorf("%s: %w", key, err)
	}
	return strings.TrimSpace(strings.TrimPrefix(string(line), "v = ")), nil
}

// SetText gives the file's text with a key set, everything else, comments
// included, as it was. value is TOML, or a word or number as it is for keys that
// hold text. The result has been read and checked.
func SetText(text []byte, key, value string) ([]byte, error) {
	var c Config
	field, err := c.field(key)
	if err != nil {
		return nil, err
	}
	table, name, _ := strings.Cut(key, ".")
	_, isText := field.Addr().Interface().(encoding.TextUnmarshaler)
	if (field.Kind() == reflect.String || isText) && !strings.HasPrefix(value, `"`) && !strings.HasPrefix(value, "'") {
		quoted, err := toml.Marshal(map[string]string{"v": value})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", key, err)
		}
		value = strings.TrimSpace(strings.TrimPrefix(string(quoted), "v = "))
	}
	if !isValue(value) {
		return nil, fmt.Errorf("%s: %q is not a value; write for example true, 3, word or [\"a\", \"b\"]", key, value)
	}
	at, err := find(text, table, name)
	if err != nil {
		return nil, err
	}
	var out []byte
	switch {
	case at.value[1] > 0:
		out = slices.Concat(text[:at.value[0]], []byte(value), text[at.value[1]:])
	case at.table > 0:
		before := slices.Clone(text[:at.table])
		if before[len(before)-1] != '\n' { // the file ends there
			before = append(before, '\n')
		}
		out = slices.Concat(before, []byte(name+" = "+value+"\n"), text[at.table:])
	default:
		if len(text) > 0 && !bytes.HasSuffix(text, []byte("\n")) {
			text = append(slices.Clone(text), '\n')
		}
		out = slices.Concat(text, []byte("\n["+table+"]\n"+name+" = "+value+"\n"))
	}
	if _, err := Parse(out); err != nil {
		return nil, err
	}
	return out, nil
}

// place is where a key stands in a file: its value's first byte and the one after
// its last, and the byte after the line of its table; zeros when it is not there.
type place struct {
	value [2]int
	table int
}

// find looks for a key.
func find(text []byte, table, name string) (place, error) {
	var p unstable.Parser
	p.Reset(text)
	var at place
	inside := false
	for p.NextExpression() {
		e := p.Expression()
		switch e.Kind {
		case unstable.Table, unstable.ArrayTable:
			parts := keyParts(e)
			inside = e.Kind == unstable.Table && len(parts.names) == 1 && parts.names[0] == table
			if inside {
				at.table = lineEnd(text, int(p.Range(parts.last).Offset))
			}
		case unstable.KeyValue:
			parts := keyParts(e)
			if got := strings.Join(parts.names, "."); inside && got == name || at.table == 0 && got == table+"."+name {
				return valueAfter(text, int(p.Range(parts.last).Offset)+len(parts.last))
			}
		default:
		}
	}
	return at, p.Error()
}

// parts is a key, dotted or not.
type parts struct {
	names []string
	last  []byte // as it stands in the file
}

func keyParts(e *unstable.Node) (out parts) {
	for it := e.Key(); it.Next(); {
		out.names = append(out.names, string(it.Node().Data))
		out.last = it.Node().Data
	}
	return out
}

func lineEnd(text []byte, from int) int {
	if i := bytes.IndexByte(text[from:], '\n'); i >= 0 {
		return from + i + 1
	}
	return len(text)
}

// valueAfter finds the value that follows a key: the shortest text after the equals
// sign, up to a comment or the end of a line, that is one.
func valueAfter(text []byte, from int) (place, error) {
	i := bytes.IndexByte(text[from:], '=')
	if i < 0 {
		return place{}, errors.New("a key without a value")
	}
	begin := from + i + 1
	for begin < len(text) && (text[begin] == ' ' || text[begin] == '\t') {
		begin++
	}
	for end := begin; end <= len(text); end++ {
		if end < len(text) && text[end] != '#' && text[end] != '\n' {
			continue
		}
		if value := bytes.TrimRight(text[begin:end], " \t\r"); isValue(string(value)) {
			return place{value: [2]int{begin, begin + len(value)}}, nil
		}
	}
	return place{}, errors.New("a value without an end")
}

// isValue tells whether a text is one TOML value and nothing more.
func isValue(text string) bool {
	if strings.TrimSpace(text) == "" {
		return false
	}
	var v map[string]any
	return toml.Unmarshal([]byte("v = "+text), &v) == nil && len(v) == 1
}

// Set is SetText for the file at path, which is replaced as a whole or not at all;
// mode and owner stay. A link is followed.
func Set(path, key, value string) error {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	out, err := SetText(text, key, value)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if err := replace(path, out); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	return nil
}

// replace writes a file beside the one at path, then puts it in its place.
func replace(path string, text []byte) (err error) {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(text)
	if st, ok := info.Sys().(*syscall.Stat_t); ok && err == nil {
		err = f.Chown(int(st.Uid), int(st.Gid))
		if errors.Is(err, fs.ErrPermission) && int(st.Uid) == os.Getuid() {
			err = nil // our own file, of a group that we are not in
		}
	}
	err = errors.Join(err, f.Chmod(info.Mode().Perm()), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return err
	}
	d, err2 := os.Open(filepath.Dir(path))
	if err2 != nil {
		return nil //nolint:nilerr // the file is in place; only a crash of the machine right now could undo that
	}
	_ = d.Sync() // the same
	return d.Close()
}
