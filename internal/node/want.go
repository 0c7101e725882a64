package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"cuttle/relay/circuit"
	"cuttle/relay/netmap"
	"cuttle/relay/session"
	"cuttle/relay/wire"
	"cuttle/stack"
)

// elsewhereTime bounds the search for another exit for a flow that one has refused:
// then the program is told what the first one said.
const elsewhereTime = 5 * time.Second

// want says what kind of circuit a flow needs: its key's, to an exit whose record
// has the port and the family. It says nothing about private networks: there the
// port does not matter, and the family if it can be had.
func (o *onward) want(f stack.Flow, by protocol) (circuit.Want, error) {
	dst := f.Dst()
	w, err := o.aim(f, by, false)
	if err != nil {
		return w, err
	}
	addr := dst.Addr().Unmap()
	if addr.IsGlobalUnicast() && !addr.IsPrivate() {
		w.Port = dst.Port()
	}
	if addr.Is6() {
		w.Families = netmap.IPv6
	}
	w.Not = o.refusals.avoid(visit{w.Key, addr})
	if o.other == nil {
		return w, nil
	}
	w = o.avoiding(w)
	if w.Families != 0 && addr.IsPrivate() && o.other(w) != nil {
		w.Families = 0
	}
	return w, nil
}

// avoiding adds the exits that do not answer, or no more. When no other is left those are tried
// that have failed: they may have recovered.
func (o *onward) avoiding(w circuit.Want) circuit.Want {
	if o.silent != nil {
		w.Not = append(w.Not, o.silent()...)
	}
	for _, exit := range o.mute.exits(w.Key) {
		if !slices.Contains(w.Not, exit) {
			w.Not = append(w.Not, exit)
		}
	}
	if len(w.Not) > 0 && o.other(w) != nil {
		w.Not = nil
	}
	return w
}

// unserved tells what a program hears of a flow that no exit takes for its family,
// without asking one: programs with both families go on with the other at once (RFC
// 8305). nil: there is an exit, or none for either family at present.
func (o *onward) unserved(w circuit.Want) error {
	if o.other == nil || w.Families == 0 {
		return nil
	}
	either := w
	either.Families = 0
	if err := o.other(w); err != nil && o.other(either) == nil {
		return fmt.Errorf("%w: %w", stack.ErrNetUnreachable, err)
	}
	return nil
}

// each calls do with sessions until it is done for another reason than the end
// of the session or of its circuit. If the exit is what failed, or is refused by
// the host, it is tried once through another exit: do returns before anything of
// the program's has been sent. do ends the session's use unless it returns an
// error.
func (o *onward) each(ctx context.Context, w circuit.Want, host netip.Addr, do func(context.Context, *carried, wire.NodeID) error) error {
	var said error // by the first exit
	for range attempts {
		k, c, err := o.getFor(ctx, w)
		if err != nil && said == nil && len(w.Not) > 0 { // the others cannot be reached
			w.Not = nil
			k, c, err = o.getFor(ctx, w)
		}
		switch {
		case err != nil && said != nil:
			return onwardError(said)
		case err != nil && o.unserved(w) != nil: // there was no link yet, or the wishes have changed
			return fmt.Errorf("%w: %w", stack.ErrNetUnreachable, err)
		case errors.Is(err, netmap.ErrNoExit) && (w.Port != 0 || len(w.Exits) > 0):
			return fmt.Errorf("%w: %w", stack.ErrProhibited, err)
		case err != nil:
			return fmt.Errorf("%w: %w", stack.ErrTimeout, err)
		}
		exit := c.Exit()
		on, cancel := during(ctx, c)
		err = do(on, k, exit)
		lost := on.Err() != nil
		cancel()
		if err == nil {
			return nil
		}
		k.done()
		o.judge(w.Key, host, exit, err)
		code := session.CodeOf(err, wire.CodeReset)
		again := lost || code == wire.CodeEnded
		if !again && (said != nil || !host.IsValid() || !blames(code)) || ctx.Err() != nil {
			return onwardError(err)
		}
		if again {
			if o.other != nil && said == nil {
				w = o.avoiding(w) // the exit may have been found silent
			}
			continue
		}
		said = err
		w.Not = append([]wire.NodeID{exit}, w.Not...)
		if o.other == nil || o.other(w) != nil {
			return onwardError(said)
		}
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, elsewhereTime)
		defer stop()
	}
	if said == nil {
		said = net8(ctx)
	}
	return onwardError(said)
}

// net8 is the error of a flow whose circuits have ended one after the other.
func net8(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", stack.ErrTimeout, err)
	}
	return &session.Error{Code: wire.CodeEnded}
}

// during is ctx, ended with the circuit at the latest: what is being opened on it
// does not wait until the session has found another one.
func during(ctx context.Context, c *circuit.Circuit) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() { // ends with the circuit or with cancel
		select {
		case <-c.Done():
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// judge notes how an exit has done for a host; nil: well.
func (o *onward) judge(key circuit.Key, host netip.Addr, exit wire.NodeID, err error) {
	if !host.IsValid() {
		return
	}
	at := visit{key, host.Unmap()}
	if err == nil {
		o.refusals.worked(at, exit)
		return
	}
	var e *session.Error
	if errors.As(err, &e) && blames(e.Code) {
		o.refusals.note(at, exit)
	}
}
