package wallet

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// Sources of a wallet's password that are no file, as billing.password_file
// names them. An argument or the environment is none: both are seen by others.
const (
	fromDescriptor = "fd:"
	fromPrompt     = "prompt"
)

// Password reads a wallet's password from where source says: "fd:N", a file
// descriptor that the parent process opened, which is closed afterwards;
// "prompt", the terminal of this process, without echo; or the path of a file
// that nobody but its owner may read. Of a descriptor or a file the first line
// counts.
func Password(source string) (string, error) {
	if n, ok := strings.CutPrefix(source, fromDescriptor); ok {
		fd, err := strconv.ParseUint(n, 10, 16)
		if err != nil {
			return "", fmt.Errorf("password from %q: want fd: and the number of a descriptor", source)
		}
		return ReadDescriptor(int(fd)) //nolint:gosec // 16 bits
	}
	if source == fromPrompt {
		return promptTerminal()
	}
	return ReadPassword(source)
}

// ReadDescriptor reads the first line of an open file descriptor and closes it.
func ReadDescriptor(fd int) (string, error) {
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil { //nolint:gosec // a descriptor
		return "", fmt.Errorf("password from descriptor %d: it is not open: give it as in `3< FILE`", fd)
	}
	f := os.NewFile(uintptr(fd), "password") //nolint:gosec // a descriptor
	defer f.Close()
	return firstLine(f)
}

// firstLine reads a line of at most maxFile bytes; an empty one is an error.
func firstLine(r io.Reader) (string, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxFile))
	defer clear(text)
	if err != nil {
		return "", fmt.Errorf("read password: %w", err)
	}
	line, _, _ := bytes.Cut(text, []byte("\n"))
	line = bytes.TrimSuffix(line, []byte("\r"))
	if len(line) == 0 {
		return "", errors.New("read password: the first line is empty")
	}
	return string(line), nil
}

func promptTerminal() (string, error) {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return "", errors.New("password from prompt: there is no terminal: name a file, a credential (credential:NAME) or a descriptor (fd:N) instead")
	}
	defer tty.Close()
	fmt.Fprint(tty, "Password of the consuming wallet: ")
	b, err := term.ReadPassword(int(tty.Fd())) //nolint:gosec // a descriptor
	defer clear(b)
	fmt.Fprintln(tty)
	if err != nil {
		return "", fmt.Errorf("password from prompt: %w", err)
	}
	if len(b) == 0 {
		return "", errors.New("password from prompt: nothing was typed")
	}
	return string(b), nil
}
