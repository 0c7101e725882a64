package https

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"sync"
	"time"

	"cuttle/obfs"
)

const (
	ownCertFile = "https.crt"
	ownKeyFile  = "https.key"
	ownValidity = 397 * 24 * time.Hour // what browsers allowed public certificates for years
	renewBefore = 30 * 24 * time.Hour
	recheck     = time.Minute // how often files are looked at again
)

// Pin gives the value of a descriptor's parameter pin for a certificate.
func Pin(c *x509.Certificate) string {
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// certificates gives the server its certificate, and the new one when the files
// are replaced (as ACME clients do).
type certificates struct {
	certFile, keyFile string // "" when there are no files

	mu      sync.Mutex // guards what follows
	current *tls.Certificate
	written time.Time // of certFile
	checked time.Time
}

func newCertificates(o obfs.Options) (*certificates, error) {
	c := &certificates{certFile: o.Values["cert"], keyFile: o.Values["key"]}
	if (c.certFile == "") != (c.keyFile == "") {
		return nil, errors.New("options cert and key: give both or none")
	}
	if c.certFile == "" {
		return ownCertificates(o)
	}
	if err := c.load(); err != nil {
		return nil, err
	}
	return c, nil
}

// load reads the files. The errors of package tls name no file and no secret.
func (c *certificates) load() error {
	info, err := os.Stat(c.certFile)
	if err != nil {
		return fmt.Errorf("certificate: %w", err)
	}
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return fmt.Errorf("certificate: %w", err)
	}
	c.current, c.written = &pair, info.ModTime()
	return nil
}

// get is for tls.Config.GetCertificate. Files that cannot be read, or do not fit
// together while they are being replaced, leave the old certificate in use.
func (c *certificates) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); c.certFile != "" && now.Sub(c.checked) > recheck {
		c.checked = now
		if info, err := os.Stat(c.certFile); err == nil && !info.ModTime().Equal(c.written) {
			_ = c.load()
		}
	}
	return c.current, nil
}

// ownCertificates makes a self-signed certificate, and keeps it and its key in
// the state folder if there is one. The key outlives the certificate, so that pins
// do.
func ownCertificates(o obfs.Options) (*certificates, error) {
	key, err := ownKey(o.State)
	if err != nil {
		return nil, fmt.Errorf("make certificate: %w", err)
	}
	c := new(certificates)
	if o.State != "" {
		c.certFile, c.keyFile = filepath.Join(o.State, ownCertFile), filepath.Join(o.State, ownKeyFile)
		if c.load() == nil && fits(c.current.Leaf, o.Values["name"]) {
			return c, nil
		}
	}
	der, err := selfSign(key, o.Values["name"], time.Now())
	if err != nil {
		return nil, fmt.Errorf("make certificate: %w", err)
	}
	if o.State == "" {
		c.current = &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
		return c, nil
	}
	if err := writePEM(c.certFile, "CERTIFICATE", der, 0o644); err != nil {
		return nil, fmt.Errorf("make certificate: %w", err)
	}
	if err := c.load(); err != nil {
		return nil, err
	}
	return c, nil
}

func fits(c *x509.Certificate, name string) bool {
	return time.Now().Before(c.NotAfter.Add(-renewBefore)) && (name == "" || c.VerifyHostname(name) == nil)
}

// ownKey reads the key of the state folder, or makes it.
func ownKey(state string) (*ecdsa.PrivateKey, error) {
	path := filepath.Join(state, ownKeyFile)
	if state != "" {
		text, err := os.ReadFile(path)
		if err == nil {
			return parseKey(text)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil || state == "" {
		return key, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return key, writePEM(path, "PRIVATE KEY", der, 0o600)
}

func parseKey(text []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New(ownKeyFile + ": not a PEM file")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ownKeyFile, err)
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, errors.New(ownKeyFile + ": not an ECDSA key")
	}
	return ec, nil
}

func selfSign(key *ecdsa.PrivateKey, name string, now time.Time) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	if name == "" {
		name = "localhost"
	}
	from := now.Add(-24 * time.Hour).Truncate(time.Hour)
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: name},
		DNSNames:              []string{name},
		NotBefore:             from,
		NotAfter:              from.Add(ownValidity),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	return x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
}

// writePEM replaces a file at once or not at all.
func writePEM(path, kind string, der []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".https-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }() // there only if something below failed
	err = pem.Encode(f, &pem.Block{Type: kind, Bytes: der})
	if err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
