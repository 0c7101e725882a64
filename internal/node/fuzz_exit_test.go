package node

import (
	"slices"
	"strings"
	"testing"

	"cuttle/relay/exit"
)

// FuzzNameservers: whatever stands in a resolv.conf, the resolvers are the addresses
// behind "nameserver" (resolv.conf(5)), in order, as many as there are lines that are
// right; what they are does not depend on what stands in other lines.
func FuzzNameservers(f *testing.F) {
	for _, s := range []string{
		"", "\n", "nameserver", "nameserver \n", "nameserver 9.9.9.9", "nameserver 9.9.9.9\nnameserver 2620:fe::fe\n",
		"# nameserver 9.9.9.9\n;nameserver 9.9.9.9\nsearch lab\noptions edns0\nnameserver\t127.0.0.53 # stub\n",
		"nameserver 9.9.9.9\r\nnameserver 1.1.1.1\r\n", "nameserver fe80::1%eth0\n", "nameserver 9.9.9.9:5353\n",
		"nameservers 9.9.9.9\n", "Nameserver 9.9.9.9\n", "nameserver9.9.9.9\n", "nameserver name.lab\n", "domain nameserver 9.9.9.9\n", " nameserver 9.9.9.9",
		"nameserver 9.9.9.9 nameserver 1.1.1.1", "nameserver ::ffff:9.9.9.9", "nameserver 9.9.9.9\x00\n", "\xff\xfenameserver 9.9.9.9\n",
	} {
		f.Add(s, "nameserver 1.1.1.1")
	}
	f.Fuzz(func(t *testing.T, text, more string) {
		got := nameservers(text)
		var named []string // second words
		for _, line := range strings.Split(text, "\n") {
			if f := strings.Fields(line); len(f) > 1 && f[0] == "nameserver" {
				named = append(named, f[1])
			}
		}
		var want []exit.Resolver
		for _, s := range named {
			if r, err := exit.ParseResolver(s); err == nil {
				want = append(want, r)
			}
		}
		if !slices.Equal(got, want) {
			t.Fatalf("%q names %v, want %v", text, got, want)
		}
		var again strings.Builder
		for _, r := range got {
			if r.String() == "" || strings.ContainsAny(r.String(), " \n") {
				t.Fatalf("%q names %q", text, r)
			}
			again.WriteString("nameserver " + r.String() + "\n")
		}
		if out := nameservers(again.String()); !slices.Equal(out, got) {
			t.Fatalf("%v written again is %v", got, out)
		}
		// Neither what comes before nor after a line changes what it says.
		if out := nameservers(text + "\n" + more); !slices.Equal(out, append(slices.Clone(got), nameservers(more)...)) {
			t.Fatalf("%q before %q names %v", text, more, out)
		}
		// A comment is none, whatever it says.
		for _, sign := range []string{"#", ";"} {
			line := sign + strings.ReplaceAll(text, "\n", " ")
			if out := nameservers(line); len(out) != 0 {
				t.Fatalf("the comment %q names %v", line, out)
			}
		}
	})
}

func TestNameservers(t *testing.T) {
	for text, want := range map[string]string{
		"":                         "",
		"nameserver 9.9.9.9":       "9.9.9.9:53",
		"nameserver 2620:fe::fe\n": "[2620:fe::fe]:53",
		"# made by hand\nsearch lab\nnameserver 9.9.9.9\noptions edns0 trust-ad\nnameserver\t1.1.1.1\t# second\n":          "9.9.9.9:53 1.1.1.1:53",
		"nameserver 9.9.9.9\r\nnameserver 1.1.1.1\r\n":                                                                     "9.9.9.9:53 1.1.1.1:53",
		"nameserver 9.9.9.9\nnameserver 9.9.9.9\n":                                                                         "9.9.9.9:53 9.9.9.9:53",
		"nameserver ::ffff:9.9.9.9\n":                                                                                      "9.9.9.9:53",
		"nameserver\nnameserver name.lab\nnameserver fe80::1%eth0\nnameserver 1.1.1.1\n":                                   "1.1.1.1:53",
		"#nameserver 9.9.9.9\n;nameserver 9.9.9.9\n# nameserver 9.9.9.9\nnameservers 9.9.9.9\nsearch nameserver 9.9.9.9\n": "",
	} {
		var got []string
		for _, r := range nameservers(text) {
			got = append(got, r.String())
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%q names %v, want %v", text, got, want)
		}
	}
}
