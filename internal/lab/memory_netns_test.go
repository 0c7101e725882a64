//go:build linux && netns

package lab

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"cuttle/internal/lab/netns"
	"cuttle/relay/wire"
)

// TestRelaysHoldNothing: during a download the memory of a circuit's relays, all of it,
// has nothing of the request or the answer, and that of the middle relay and the exit
// nothing of who the client is. The exit's has the request and the answer, the client's
// the answer, and the guard's the client's address, so that they would have been found.
func TestRelaysHoldNothing(t *testing.T) {
	o := options(t)
	o.Nodes, o.Exits, o.Guards = 5, 2, 1 // so that no other relay has a link to the client
	l := up(t, o)
	asked, answered := rand.Text(), rand.Text()
	conn, err := netns.Dial(t.Context(), l.namespaceOf(t, "client"), "tcp", netip.AddrPortFrom(webV4, 80).String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(2 * time.Minute))
	ask := func() {
		t.Helper()
		if _, err := fmt.Fprintf(conn, "GET /bytes/%d?canary=%s HTTP/1.1\r\nHost: %s\r\nX-Canary: %s\r\n\r\n", int64(3e9), answered, WebName, asked); err != nil {
			t.Fatal(err)
		}
	}
	ask()
	body := bufio.NewReader(conn)
	for i := range 64 { // the server hashes all of it first
		line, err := body.ReadString('\n')
		if err != nil || i == 0 && !strings.Contains(line, "200") {
			t.Fatalf("the server says %q, %v", line, err)
		}
		if line == "\r\n" {
			break
		}
	}
	hops := inUse(t, l)
	client, err := wire.ParseNodeID(l.Key("client"))
	if err != nil {
		t.Fatal(err)
	}
	self := string(client[:])
	have := map[string][]string{"client": {answered}, hops[0]: {self}, hops[2]: {asked, answered}}
	never := map[string][]string{hops[0]: {asked, answered}, hops[1]: {asked, answered, self, client.String()}, hops[2]: {self, client.String()}}
	names := map[string]string{asked: "the request", answered: "the answer", self: "the client's address", client.String(): "the client's address as text"}
	for deadline := time.Now().Add(time.Minute); len(have) > 0; {
		ask()                                                       // the server comes to that when it has answered the first, so it stays on its way
		if _, err := io.CopyN(io.Discard, body, 20e6); err != nil { // what is on its way stands in memory
			t.Fatal(err)
		}
		for node, words := range have {
			if len(held(t, l, node, words)) == len(words) {
				delete(have, node)
			}
		}
		for node, words := range never {
			for _, w := range held(t, l, node, words) {
				t.Errorf("%s of the path %v has %s in its memory", node, hops, names[w])
			}
		}
		if t.Failed() || time.Now().After(deadline) {
			break
		}
	}
	for node, words := range have {
		t.Errorf("%s of the path %v does not have all of %d words in its memory, so the others prove nothing", node, hops, len(words))
	}
}

// held tells which words stand in the memory of a node's daemon.
func held(t *testing.T, l *Lab, node string, words []string) (found []string) {
	t.Helper()
	pid := l.state.Processes[node].PID
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	seen := map[string]bool{}
	total := int64(0)
	buf := make([]byte, 1<<20)
	for line := range strings.Lines(string(maps)) {
		var from, to int64
		var rights string
		if _, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &rights); err != nil || !strings.HasPrefix(rights, "rw") {
			continue
		}
		const overlap = 64 // a word may stand across two pieces
		for at := from; at < to; at += int64(len(buf)) - overlap {
			n, _ := mem.ReadAt(buf[:min(int64(len(buf)), to-at)], at) // some pages cannot be read
			total += int64(n)
			for _, w := range words {
				seen[w] = seen[w] || bytes.Contains(buf[:n], []byte(w))
			}
		}
	}
	if total < 8<<20 {
		t.Fatalf("%d bytes of memory of %s could be read", total, node)
	}
	for _, w := range words {
		if seen[w] {
			found = append(found, w)
		}
	}
	return found
}
