package session

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"cuttle/relay/wire"
)

// datagramsOf takes the datagrams that were sent on a carrier apart, parts one by one.
func datagramsOf(t testing.TB, c *puppet) (out []wire.SessionFrame) {
	t.Helper()
	for _, p := range c.packets(wire.Datagram) {
		for len(p) > 0 {
			f, rest, err := wire.NextSessionFrame(p)
			if err != nil || f.Type != wire.SessionDatagram {
				t.Fatalf("sent %v among datagrams, %v", f.Type, err)
			}
			out, p = append(out, f), rest
		}
	}
	return out
}

// carries checks what a carrier was given: these reliable packets and no others, and
// datagrams with these texts, each in one piece.
func (c *puppet) carries(t testing.TB, packets [][]byte, datagrams ...string) {
	t.Helper()
	if got := c.packets(wire.Reliable); !slices.EqualFunc(got, packets, bytes.Equal) {
		t.Errorf("packets sent: %q, want %q", got, packets)
	}
	var got []string
	for _, f := range datagramsOf(t, c) {
		got = append(got, string(f.Data))
	}
	if !slices.Equal(got, datagrams) {
		t.Errorf("datagrams sent: %q, want %q", got, datagrams)
	}
}

// TestClientSendsDatagramsOnce: of what a client has sent on a carrier and nobody has
// acknowledged, stream bytes are sent on the next one again and datagrams are not.
func TestClientSendsDatagramsOnce(t *testing.T) {
	for _, tt := range []struct {
		name string
		lose func(t *testing.T, s *stage)
	}{
		{"the carrier ends", func(_ *testing.T, s *stage) { s.newest().Close() }},
		{"the carrier goes silent", func(_ *testing.T, s *stage) {
			time.Sleep(deadAfter + 2*watchEvery)
		}},
		{"a minute without an acknowledgement", func(t *testing.T, s *stage) {
			for range 60 {
				time.Sleep(time.Second)
				if _, asked, answered := s.counts(); asked > answered {
					s.must(t, pongTo(asked))
				}
			}
			if len(s.made()) != 1 {
				t.Fatalf("%d carriers, want one whose exit answers", len(s.made()))
			}
			s.newest().Close()
		}},
		{"an exit that breaks the rules", func(t *testing.T, s *stage) {
			if s.newest().say(pongTo(99)) == nil {
				t.Error("a pong that nobody asked for is taken")
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage(t, 0)
				defer s.end()
				s.must(t, attachedAt(0))
				var all []string
				for i := range 3 {
					all = append(all, fmt.Sprintf("datagram %d", i))
					writeAll(t, s.flow, all[i])
					synctest.Wait()
				}
				sent := s.made()[0].packets(wire.Reliable)
				tt.lose(t, s)
				synctest.Wait()
				s.made()[0].carries(t, sent, all...) // each once, however long it took
				for moves := 1; moves < 4; moves++ {
					time.Sleep(attachDelay)
					synctest.Wait()
					if len(s.made()) != moves+1 {
						t.Fatalf("%d carriers, want %d", len(s.made()), moves+1)
					}
					s.newest().carries(t, nil)
					s.must(t, attachedAt(0)) // nothing has come, says the exit
					s.newest().carries(t, sent)
					text := fmt.Sprintf("after move %d", moves)
					writeAll(t, s.flow, text)
					time.Sleep(time.Second)
					synctest.Wait()
					s.newest().carries(t, sent, text)
					s.newest().Close()
				}
			})
		})
	}
}

// TestDatagramsWaitBriefly: a datagram written while there is no carrier goes over the
// next one once, unless it has waited for longer than sendAge; then it is lost, and
// stream bytes as old as it are not.
func TestDatagramsWaitBriefly(t *testing.T) {
	for _, tt := range []struct {
		name string
		wait time.Duration
		want []string
	}{{"a little later", sendAge / 2, []string{"detached"}}, {"too late", 2 * sendAge, nil}} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage(t, 0)
				defer s.end()
				s.must(t, attachedAt(0))
				s.another()
				writeAll(t, s.flow, "detached")
				writeAll(t, s.st, "detached, too")
				time.Sleep(tt.wait)
				s.must(t, attachedAt(stageSent))
				late := [][]byte{wire.AppendData(nil, 1, []byte("detached, too"))}
				s.newest().carries(t, late, tt.want...)
				s.another()
				s.must(t, attachedAt(stageSent))
				s.newest().carries(t, late)
			})
		})
	}
}

// TestPartsStayOnTheirCarrier: a datagram in parts of which a carrier has taken some
// when it ends goes no further: neither those nor the others are on the next carrier,
// whenever that comes.
func TestPartsStayOnTheirCarrier(t *testing.T) {
	for hold := 1; hold <= 3; hold++ {
		for _, late := range []bool{false, true} { // the carrier lets go of the part at its end, or after the move
			synctest.Test(t, func(t *testing.T) {
				s := newStage(t, hold)
				defer s.end()
				first := s.newest()
				s.must(t, attachedAt(0))
				writeAll(t, s.flow, string(pattern(0, 3*maxFragment))) // four parts
				synctest.Wait()
				if got := len(datagramsOf(t, first)); got != hold {
					t.Fatalf("%d parts are on the first carrier, want %d", got, hold)
				}
				first.Close()
				synctest.Wait()
				if !late {
					close(first.release)
				}
				s.another()
				s.must(t, attachedAt(0))
				if late {
					close(first.release)
				}
				time.Sleep(time.Second)
				synctest.Wait()
				s.newest().carries(t, first.packets(wire.Reliable))
				writeAll(t, s.flow, "whole")
				synctest.Wait()
				s.newest().carries(t, first.packets(wire.Reliable), "whole")
			})
		}
	}
}

// TestExitSendsDatagramsOnce is TestClientSendsDatagramsOnce for the exit's end.
func TestExitSendsDatagramsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, far := socket()
		hung := make(chan struct{})
		o.tcp = serving(t, func(c *memConn) {
			writeAll(t, c, "stream bytes")
			<-hung
		}).tcp
		x := NewExit(func(wire.NodeID) Opener { return o }, ExitConfig{})
		defer x.Close()
		defer close(hung)
		accept := func(p []byte) *puppet {
			c := newPuppet()
			c.Attach(x.Accept(c, wire.NodeID{1}))
			if err := c.say(payload{wire.PayloadAttach, wire.Reliable, p}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			return c
		}
		first := accept(attachBytes(1, false, 0))
		for id, kind := range []wire.Kind{wire.KindTCP, wire.KindUDP} {
			if err := first.say(reliably(open(wire.StreamID(id+1), kind))); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		far.in <- []byte("one")
		synctest.Wait()
		far.in <- []byte("two")
		synctest.Wait()
		sent := first.packets(wire.Reliable)
		if !bytes.Contains(bytes.Join(sent, nil), []byte("stream bytes")) {
			t.Fatalf("the exit has sent %q, want the stream's bytes", sent)
		}
		time.Sleep(10 * time.Second) // nothing is acknowledged
		first.carries(t, sent, "one", "two")
		for i := range 3 {
			next := accept(attachBytes(1, true, 0))
			next.carries(t, sent)
			text := fmt.Sprintf("after move %d", i)
			far.in <- []byte(text)
			synctest.Wait()
			next.carries(t, sent, text)
			if i == 1 { // otherwise the next one takes the session away
				next.Close()
				synctest.Wait()
			}
			defer next.Close()
		}
		if !first.closed() {
			t.Error("the first carrier is still open")
		}
	})
}
