package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"cuttle/internal/config"
	"cuttle/internal/control"
)

// maxChoices bounds the file of choices, bytes, and maxDevices what it holds.
const (
	maxChoices = 1 << 20
	maxDevices = 1024
)

// choices are what operators have said at run time; they outlive the daemon and
// win over the configuration. nil: nobody has said anything.
type choices struct {
	LAN      *bool                    `json:"lan,omitempty"`
	Router   *string                  `json:"router,omitempty"`  // interface, "" for none
	Network6 netip.Prefix             `json:"network6,omitzero"` // of the LAN, chosen once
	Devices  map[string]config.Device `json:"devices,omitempty"` // by MAC address
}

const choicesFile = "choices.json"

func readChoices(dir string) (choices, error) {
	var c choices
	path := filepath.Join(dir, choicesFile)
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err == nil && info.Size() > maxChoices {
		err = errors.New("too large")
	}
	var b []byte
	if err == nil {
		b, err = os.ReadFile(path)
	}
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	if err != nil {
		return choices{}, fmt.Errorf("read %s, in which the choices of `cuttle lan` and `cuttle router` are: %w; move it away to begin anew", path, err)
	}
	return c, nil
}

// readAgain tries again to read choices that could not be read.
func (h *hold) readAgain() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.unread == nil {
		return nil
	}
	c, err := readChoices(h.cfg.Node.State)
	if h.unread = err; err == nil {
		h.choices = c
	}
	return err
}

// write returns when the choices will survive a crash.
func (c choices) write(dir string) error {
	b, err := json.MarshalIndent(c, "", " ")
	if err == nil {
		err = keepFile(filepath.Join(dir, choicesFile), append(b, '\n'))
	}
	if err != nil {
		return fmt.Errorf("keep this choice: %w", err)
	}
	return nil
}

// keepFile puts b in a file's place, in one move, and returns when that will
// survive a crash.
func keepFile(path string, b []byte) error {
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(path+".new", path)
	}
	if err == nil {
		err = syncFolder(filepath.Dir(path))
	}
	return err
}

func syncFolder(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// request is a change of what is let through. back undoes it if the host does
// not take it.
type request struct {
	done chan error // capacity 1
	back func()
}

// adopt makes a change with set, under the mutex, and returns when that is in
// force and will survive a crash. What narrows is kept first and put in force then,
// what widens the other way round, so that a crash in between leaves less open
// than was wanted. With an error the change has been taken back.
func (h *hold) adopt(ctx context.Context, narrows bool, set func() (back func())) error {
	h.turn.Lock()
	defer h.turn.Unlock()
	if err := h.readAgain(); err != nil {
		return &control.Error{Text: err.Error(), Hint: "then say it again"}
	}
	h.mu.Lock()
	r := request{done: make(chan error, 1), back: set()}
	if narrows {
		if err := h.choices.write(h.cfg.Node.State); err != nil {
			defer h.mu.Unlock()
			r.back()
			return err
		}
	}
	h.waiting = append(h.waiting, r)
	h.mu.Unlock()
	h.poke()
	err := h.await(ctx, r)
	h.mu.Lock()
	defer h.mu.Unlock()
	if narrows && err == nil {
		return nil
	}
	if err == nil {
		if err = h.choices.write(h.cfg.Node.State); err == nil {
			return nil
		}
		// In force, but it would be forgotten: close it again.
		r.back()
		h.waiting = append(h.waiting, request{done: make(chan error, 1), back: func() {}})
		h.poke()
		return err
	}
	if narrows {
		return errors.Join(err, h.choices.write(h.cfg.Node.State))
	}
	return err
}

// await returns when a request is in force, or has been taken back. One that is
// being put in force already is waited for, since that has its own end.
func (h *hold) await(ctx context.Context, r request) error {
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
	}
	h.mu.Lock()
	i := slices.IndexFunc(h.waiting, func(w request) bool { return w.done == r.done })
	if i >= 0 {
		h.waiting = slices.Delete(h.waiting, i, i+1)
		r.back()
		h.waiting = append(h.waiting, request{done: make(chan error, 1), back: func() {}}) // a plan may have it already
		h.poke()
	}
	h.mu.Unlock()
	if i < 0 {
		return <-r.done
	}
	return fmt.Errorf("it could not be put in force in time, and was taken back: %w", ctx.Err())
}

// takeWaiting gives the changes that wait to be put in force.
func (h *hold) takeWaiting() []request {
	h.mu.Lock()
	defer h.mu.Unlock()
	w := h.waiting
	h.waiting = nil
	return w
}

func answerAll(w []request, err error) {
	for _, r := range w {
		r.done <- err
	}
}
