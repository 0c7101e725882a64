package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"cuttle/billing/evm"
	"cuttle/billing/wallet"
	"cuttle/billing/wallet/phrase"
	"cuttle/internal/config"
	"cuttle/internal/control"
)

const (
	defaultWallet = "/etc/cuttle/consuming.json"
	askedBack     = 4 // words of a new phrase
)

// purse is the wallet command's flags.
type purse struct {
	a        *app
	config   string
	file     string // keystore; the configured one if empty
	password source

	words, ask int
	path       string // BIP-44
	light      bool
	passphrase bool
	noWords    bool

	k *asker // one for all questions: it reads ahead
}

func (w *purse) asker() *asker {
	if w.k == nil {
		w.k = newAsker(w.a)
	}
	return w.k
}

// made is what wallet new and import print.
type made struct {
	Schema  int    `json:"schema"`
	File    string `json:"file"`
	Address string `json:"address"` // EIP-55
	Path    string `json:"path"`    // "" for a key that is of no phrase
	Earning string `json:"earning"` // address of the same phrase that can earn, "" without one
}

func walletCommand(a *app) *cobra.Command {
	w := &purse{a: a}
	c := &cobra.Command{Use: "wallet", Short: "make, import, show, empty and resume the wallets of a paid network",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return errors.New("want new, import, show, balance, sweep or resume")
			}
			return nil
		},
		RunE: func(*cobra.Command, []string) error {
			return usageError{errors.New("wallet: want new, import, show, balance, sweep or resume")}
		}}
	f := c.PersistentFlags()
	f.StringVar(&w.config, "config", defaultConfig, "the daemon's configuration file")
	f.StringVar(&w.file, "wallet", "", "the keystore file (default billing.consuming of the configuration, or "+defaultWallet+")")
	f.IntVar(&w.password.descriptor, "password-fd", -1, "read the file's password from this open descriptor")
	f.StringVar(&w.password.credential, "password-credential", "", "or from this credential of systemd")
	f.StringVar(&w.password.file, "password-file", "", "or from this file; without any of them you are asked")

	fresh := &cobra.Command{Use: "new", Short: "make a phrase of words and a keystore file of it",
		RunE: func(c *cobra.Command, _ []string) error { return w.new(c.Context()) }}
	fresh.Flags().IntVar(&w.words, "words", phrase.MaxWords, "12, 15, 18, 21 or 24")
	fresh.Flags().IntVar(&w.ask, "ask", askedBack, "how many of the words are asked back")
	fresh.Flags().BoolVar(&w.noWords, "no-words", false, "a random key without a phrase; the file is all there is")
	w.keyFlags(fresh)
	imp := &cobra.Command{Use: "import words|key|keystore FILE", Short: "make the keystore file of a phrase, a private key or another keystore file",
		Args: importArgs, ValidArgs: []string{"words", "key", "keystore"},
		RunE: func(c *cobra.Command, args []string) error { return w.importWallet(c.Context(), args) }}
	w.keyFlags(imp)
	c.AddCommand(fresh, imp, w.showCommand(), w.balanceCommand(), w.sweepCommand(), w.resumeCommand())
	return c
}

func (w *purse) keyFlags(c *cobra.Command) {
	c.Flags().StringVar(&w.path, "path", phrase.ConsumingPath, "the key's path in the phrase (BIP-44); this one is MASQ's, too")
	c.Flags().BoolVar(&w.passphrase, "passphrase", false, "ask for the phrase's passphrase (BIP-39), too")
	c.Flags().BoolVar(&w.light, "light", false, "cheaper key derivation, for small boards (4 MiB instead of 256); wants a strong password")
}

func importArgs(_ *cobra.Command, args []string) error {
	switch {
	case len(args) == 1 && (args[0] == "words" || args[0] == "key"), len(args) == 2 && args[0] == "keystore":
		return nil
	}
	return errors.New("want words, key, or keystore FILE; what is secret is asked for, never an argument")
}

// settings reads the configuration as far as it is there.
func (w *purse) settings() (*config.Config, error) { return config.LoadUnchecked(w.config) }

// where is the keystore file that is meant.
func (w *purse) where(cfg *config.Config) string {
	switch {
	case w.file != "":
		return w.file
	case cfg.Billing.Consuming != "":
		return cfg.Billing.Consuming
	}
	return defaultWallet
}

// vacant refuses a path at which something is, before anybody types anything.
func vacant(path string) error {
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("%s: %w: it is never overwritten; name another with --wallet", path, wallet.ErrExists)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// newPassword is the one that a new file gets.
func (w *purse) newPassword(ctx context.Context, k *asker) (string, error) {
	if w.password.given() {
		return w.password.read(ctx, k)
	}
	return k.twice(ctx, "New password of the wallet file")
}

func (w *purse) new(ctx context.Context) error {
	cfg, err := w.settings()
	if err != nil {
		return err
	}
	path := w.where(cfg)
	if err := errors.Join(vacant(path), phrase.CheckPath(w.path)); err != nil {
		return err
	}
	k := w.asker()
	if w.noWords {
		password, err := w.newPassword(ctx, k)
		if err != nil {
			return err
		}
		made, err := wallet.Create(path, password, w.light)
		if err != nil {
			return err
		}
		return w.done(path, made, "", "")
	}
	p, err := phrase.New(rand.Reader, w.words)
	if err != nil {
		return usageError{err}
	}
	password, err := w.newPassword(ctx, k)
	if err != nil {
		return err
	}
	if err := k.askBack(ctx, p, w.ask); err != nil {
		return err
	}
	return w.fromPhrase(ctx, k, path, password, p, true)
}

// fromPhrase writes the keystore file of a phrase; its other address can earn.
func (w *purse) fromPhrase(ctx context.Context, k *asker, path, password string, p phrase.Phrase, fresh bool) error {
	pass := ""
	if w.passphrase {
		ask := k.secret
		if fresh {
			ask = k.twice
		}
		var err error
		if pass, err = ask(ctx, "Passphrase of the words (BIP-39): "); err != nil {
			return err
		}
	}
	key, err := p.Key(pass, w.path)
	defer clear(key)
	if err != nil {
		return err
	}
	other := phrase.EarningPath
	if w.path == other {
		other = phrase.ConsumingPath
	}
	second, err := p.Key(pass, other)
	defer clear(second)
	if err != nil {
		return err
	}
	earning, err := wallet.AddressOf(second)
	if err != nil {
		return err
	}
	made, err := wallet.ImportBytes(path, password, w.light, key)
	if err != nil {
		return err
	}
	return w.done(path, made, w.path, earning.Hex())
}

func (w *purse) importWallet(ctx context.Context, args []string) error {
	cfg, err := w.settings()
	if err != nil {
		return err
	}
	path := w.where(cfg)
	if err := errors.Join(vacant(path), phrase.CheckPath(w.path)); err != nil {
		return err
	}
	k := w.asker()
	var secret string
	switch args[0] {
	case "words":
		secret, err = k.secret(ctx, "The words, all in one line: ")
	case "key":
		secret, err = k.secret(ctx, "The private key, 64 hexadecimal digits: ")
	case "keystore":
		secret, err = k.secret(ctx, "Password of "+args[1]+": ")
	}
	if err != nil {
		return err
	}
	var p phrase.Phrase
	if args[0] == "words" { // what is wrong with them is said before more is asked
		if p, err = phrase.Parse(secret); err != nil {
			return err
		}
	}
	password, err := w.newPassword(ctx, k)
	if err != nil {
		return err
	}
	var made *wallet.Wallet
	switch args[0] {
	case "words":
		return w.fromPhrase(ctx, k, path, password, p, false)
	case "key":
		made, err = wallet.Import(path, password, w.light, secret)
	case "keystore":
		made, err = wallet.ImportKeystore(path, password, w.light, args[1], secret)
	}
	if err != nil {
		return err
	}
	return w.done(path, made, "", "")
}

// done tells what was made and what comes next.
func (w *purse) done(path string, w2 *wallet.Wallet, derived, earning string) error {
	m := made{control.Schema, path, w2.String(), derived, earning}
	return w.a.show(m, func(p *page) {
		p.line("Wallet %s is in %s.", m.Address, m.File)
		if derived != "" {
			p.line("Its key is at %s of the words.", derived)
		}
		p.line("")
		p.line("Next:")
		p.line("  cuttle config set billing.consuming %s", m.File)
		p.line("  cuttle config set billing.password_file FILE   (or credential:NAME, fd:N, prompt)")
		if earning != "" {
			p.line("  cuttle config set billing.earning %s   (of the same words; its key need not be here)", earning)
		}
		p.line("Send token, and some of the chain's own coin for fees, to %s; keep little there.", m.Address)
	})
}

// shown is what wallet show prints.
type shown struct {
	Schema    int      `json:"schema"`
	File      string   `json:"file"`
	Consuming string   `json:"consuming"` // EIP-55, "" without a wallet
	Proven    bool     `json:"proven"`    // the file was opened, so that the address is its key's
	Earning   string   `json:"earning"`   // EIP-55, "" without one
	Notes     []string `json:"notes"`
}

func (w *purse) showCommand() *cobra.Command {
	var unlock bool
	c := &cobra.Command{Use: "show", Short: "the addresses of both wallets", RunE: func(c *cobra.Command, _ []string) error {
		cfg, err := w.settings()
		if err != nil {
			return err
		}
		s := shown{Schema: control.Schema, File: w.where(cfg), Notes: []string{}}
		consuming, err := w.consuming(c.Context(), cfg, unlock)
		switch {
		case errors.Is(err, fs.ErrNotExist) && !unlock:
			s.Notes = append(s.Notes, "there is no consuming wallet at "+s.File+": make one with `cuttle wallet new`")
			s.File = ""
		case err != nil:
			return err
		default:
			s.Consuming, s.Proven = consuming.Hex(), unlock
		}
		if cfg.Billing.Earning == "" {
			s.Notes = append(s.Notes, "billing.earning is not set: neighbors do not know whom to pay")
		} else {
			earning, unchecked, err := wallet.Earning(cfg.Billing.Earning, consuming, false)
			if err != nil {
				return fmt.Errorf("billing.earning: %w", err)
			}
			if s.Earning = earning.Hex(); unchecked {
				s.Notes = append(s.Notes, "billing.earning has no checksum, so a typing error would not be noticed: write it as "+s.Earning)
			}
		}
		return w.a.show(s, func(p *page) {
			p.facts([2]string{"consuming", dash(s.Consuming)}, [2]string{"file", dash(s.File)}, [2]string{"earning", dash(s.Earning)})
			for _, n := range s.Notes {
				p.line("%s.", strings.ToUpper(n[:1])+n[1:])
			}
		})
	}}
	c.Flags().BoolVar(&unlock, "unlock", false, "open the file with its password, which proves that it works")
	return c
}

// consuming reads the consuming wallet's address from its file.
func (w *purse) consuming(ctx context.Context, cfg *config.Config, unlock bool) (evm.Address, error) {
	path := w.where(cfg)
	if !unlock {
		return wallet.Peek(path)
	}
	open, err := w.open(ctx, cfg, path)
	if err != nil {
		return evm.Address{}, err
	}
	return open.Address(), nil
}

// open unlocks a keystore file: with what the flags name, else as the daemon
// does if it is the daemon's, else by asking.
func (w *purse) open(ctx context.Context, cfg *config.Config, path string) (*wallet.Wallet, error) {
	k := w.asker()
	var password string
	var err error
	from := cfg.Billing.PasswordFile
	switch {
	case w.password.given():
		password, err = w.password.read(ctx, k)
	case path == cfg.Billing.Consuming && strings.HasPrefix(from, "/"):
		password, err = wallet.ReadPassword(from)
	default:
		password, err = k.secret(ctx, "Password of "+path+": ")
	}
	if err != nil {
		return nil, err
	}
	return wallet.Open(path, password)
}
