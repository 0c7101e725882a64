package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"slices"
	"strings"

	"golang.org/x/term"

	"cuttle/billing/wallet"
	"cuttle/billing/wallet/phrase"
	"cuttle/internal/systemd"
)

const maxTyped = 64 << 10 // bytes read from standard input in all

// asker asks the person at the terminal, or reads the lines of a pipe. What is
// shown goes to standard error, so that no redirection keeps it.
type asker struct {
	out   io.Writer
	lines *bufio.Reader
	tty   int // descriptor, -1 if standard input is no terminal
}

func newAsker(a *app) *asker {
	k := &asker{out: a.errOut, lines: bufio.NewReader(io.LimitReader(a.in, maxTyped)), tty: -1}
	if f, ok := a.in.(*os.File); ok && term.IsTerminal(int(f.Fd())) { //nolint:gosec // a descriptor
		k.tty = int(f.Fd()) //nolint:gosec // a descriptor
	}
	return k
}

// line asks for something that may be seen.
func (k *asker) line(ctx context.Context, prompt string) (string, error) {
	fmt.Fprint(k.out, prompt)
	return k.await(ctx, func() (string, error) {
		s, err := k.lines.ReadString('\n')
		if err == io.EOF && s != "" { //nolint:errorlint // ReadString's own
			err = nil
		}
		return strings.TrimRight(s, "\r\n"), err
	})
}

// secret asks without echo.
func (k *asker) secret(ctx context.Context, prompt string) (string, error) {
	if k.tty < 0 {
		return k.line(ctx, prompt)
	}
	fmt.Fprint(k.out, prompt)
	s, err := k.await(ctx, func() (string, error) {
		b, err := term.ReadPassword(k.tty)
		defer clear(b)
		return string(b), err
	})
	fmt.Fprintln(k.out)
	return s, err
}

// await reads until ctx ends; then the terminal is put back as it was.
func (k *asker) await(ctx context.Context, read func() (string, error)) (string, error) {
	if k.tty < 0 {
		return described(read())
	}
	before, err := term.GetState(k.tty)
	if err != nil {
		return "", fmt.Errorf("read from the terminal: %w", err)
	}
	type typed struct {
		text string
		err  error
	}
	got := make(chan typed, 1)
	go func() { // ends with the line; after an interrupt, with the process
		s, err := read()
		got <- typed{s, err}
	}()
	select {
	case t := <-got:
		return described(t.text, t.err)
	case <-ctx.Done():
		return "", errors.Join(errors.New("interrupted: nothing was written"), term.Restore(k.tty, before))
	}
}

func described(s string, err error) (string, error) {
	if errors.Is(err, io.EOF) {
		return "", errors.New("standard input ended before everything was answered")
	}
	return s, err
}

// twice asks for a new secret two times.
func (k *asker) twice(ctx context.Context, what string) (string, error) {
	first, err := k.secret(ctx, what+": ")
	if err != nil {
		return "", err
	}
	if first == "" {
		return "", fmt.Errorf("%s: nothing was typed", strings.ToLower(what))
	}
	again, err := k.secret(ctx, "The same again: ")
	if err != nil {
		return "", err
	}
	if again != first {
		return "", errors.New("the two are not the same: nothing was written")
	}
	return first, nil
}

// yes asks a question that only "yes" answers.
func (k *asker) yes(ctx context.Context, question string) (bool, error) {
	s, err := k.line(ctx, question+" Type yes: ")
	return err == nil && strings.EqualFold(strings.TrimSpace(s), "yes"), err
}

const maxAnswers = 3 // for one word

// askBack shows a phrase and wants some of its words back, so that nobody goes
// on who has not written it down. On a terminal the phrase is gone by then.
func (k *asker) askBack(ctx context.Context, p phrase.Phrase, count int) error {
	words := p.Words()
	fmt.Fprintln(k.out, "These words are the wallet. Whoever has them has its money; without them and the file it is lost.")
	fmt.Fprintln(k.out, "Write them down in this order, on paper. They are shown once.")
	for i := 0; i < len(words); i += 4 {
		for j := i; j < min(i+4, len(words)); j++ {
			fmt.Fprintf(k.out, "%4d %-10s", j+1, words[j])
		}
		fmt.Fprintln(k.out)
	}
	if _, err := k.line(ctx, "Press Enter when you have: "); err != nil {
		return err
	}
	if k.tty >= 0 {
		fmt.Fprint(k.out, "\x1b[H\x1b[2J\x1b[3J") // home, clear the screen, and what can be scrolled back to
	}
	places, err := choose(len(words), count)
	if err != nil {
		return err
	}
	for _, at := range places {
		for try := 1; ; try++ {
			s, err := k.line(ctx, fmt.Sprintf("Word %d: ", at+1))
			if err != nil {
				return err
			}
			if strings.EqualFold(strings.TrimSpace(s), words[at]) {
				break
			}
			if try == maxAnswers {
				return errors.New("these are not the words: nothing was written; begin again")
			}
			fmt.Fprintln(k.out, "That is not the word.")
		}
	}
	return nil
}

// choose gives so many places below n, in order.
func choose(n, count int) ([]int, error) {
	var places []int
	for len(places) < min(count, n) {
		r, err := rand.Int(rand.Reader, big.NewInt(int64(n)))
		if err != nil {
			return nil, fmt.Errorf("choose words: %w", err)
		}
		if at := int(r.Int64()); !slices.Contains(places, at) {
			places = append(places, at)
		}
	}
	slices.Sort(places)
	return places, nil
}

// source is where a password comes from if nobody is to be asked. An argument
// and the environment are none, since others can read them.
type source struct {
	descriptor int
	credential string
	file       string
}

func (s source) given() bool { return s.descriptor >= 0 || s.credential != "" || s.file != "" }

func (s source) read(ctx context.Context, k *asker) (string, error) {
	switch {
	case s.descriptor == 0: // standard input, of which more lines may follow
		return k.secret(ctx, "")
	case s.descriptor > 0:
		return wallet.ReadDescriptor(s.descriptor)
	case s.credential != "":
		return systemd.Credential(os.Getenv("CREDENTIALS_DIRECTORY"), s.credential)
	}
	return wallet.ReadPassword(s.file)
}
