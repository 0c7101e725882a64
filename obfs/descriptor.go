package obfs

import (
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"cuttle/relay/wire"
)

// Bounds of a descriptor (docs/protocol.md section 8.1).
const (
	scheme           = "cuttle://"
	maxDescriptor    = 1024 // bytes
	maxAddresses     = 8
	maxMaskName      = 16
	maxHostName      = 253
	maxHostLabel     = 63
	pinSize          = 32 // SHA-256 of a SubjectPublicKeyInfo
	defaultMask      = "https"
	descriptorSyntax = "want cuttle://<node address>[@host:port[,host:port]][?mask=...]"
)

// Descriptor is what one gives a friend so that they can connect: who the node
// is, where it listens and behind which mask. Its text form is
//
//	cuttle://<node address>[@host:port[,host:port...]][?mask=NAME&name=HOST&pin=HASH]
//
// as described in docs/protocol.md section 8.1.
type Descriptor struct {
	Node      wire.NodeID
	Addresses []string          // host:port in order of preference; empty: the node opens the link to us
	Mask      string            // empty only when there are no addresses
	Params    map[string]string // "name": the host name to show; "pin": the certificate key to insist on
}

// ParseDescriptor reads the text form. Errors say which part is wrong and never
// repeat an address.
func ParseDescriptor(s string) (Descriptor, error) {
	d, err := parseDescriptor(s)
	if err != nil {
		return Descriptor{}, fmt.Errorf("descriptor: %w", err)
	}
	return d, nil
}

func parseDescriptor(s string) (Descriptor, error) {
	var d Descriptor
	if len(s) > maxDescriptor {
		return d, fmt.Errorf("longer than %d bytes", maxDescriptor)
	}
	rest, ok := strings.CutPrefix(s, scheme)
	if !ok {
		return d, errors.New(descriptorSyntax)
	}
	rest, query, asked := strings.Cut(rest, "?")
	node, places, placed := strings.Cut(rest, "@")
	id, err := wire.ParseNodeID(node)
	if err != nil {
		return d, errors.New("node address: want 52 characters of base32 (a-z, 2-7)")
	}
	d.Node = id
	if !placed {
		if asked {
			return d, errors.New("parameters without an address")
		}
		return d, nil
	}
	if d.Addresses, err = parsePlaces(places); err != nil {
		return d, err
	}
	d.Mask, d.Params, err = parseParams(query, asked)
	return d, err
}

func parsePlaces(s string) ([]string, error) {
	parts := strings.Split(s, ",")
	if len(parts) > maxAddresses {
		return nil, fmt.Errorf("more than %d addresses", maxAddresses)
	}
	places := make([]string, 0, len(parts))
	for i, p := range parts {
		place, err := parsePlace(p)
		if err != nil {
			return nil, fmt.Errorf("address %d: %w", i+1, err)
		}
		if slices.Contains(places, place) {
			return nil, fmt.Errorf("address %d: given twice", i+1)
		}
		places = append(places, place)
	}
	return places, nil
}

// parsePlace reads host:port and gives its canonical form.
func parsePlace(s string) (string, error) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return "", errors.New("want host:port, IPv6 as [address]:port")
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 || port != strconv.FormatUint(n, 10) {
		return "", errors.New("port: want a number from 1 to 65535")
	}
	if strings.HasPrefix(s, "[") {
		ip, err := netip.ParseAddr(host)
		if err != nil || !ip.Is6() || ip.Zone() != "" || ip.Is4In6() {
			return "", errors.New("want an IPv6 address in the brackets")
		}
		return net.JoinHostPort(ip.String(), port), nil
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return net.JoinHostPort(ip.String(), port), nil
	}
	host, err = parseHostName(host)
	if err != nil {
		return "", err
	}
	return net.JoinHostPort(host, port), nil
}

// parseHostName accepts names of letters, digits and hyphens (RFC 1123 section
// 2.1) whose last label is not a number, and gives them in lower case.
func parseHostName(s string) (string, error) {
	bad := errors.New("want a host name of letters, digits, hyphens and dots")
	if s == "" || len(s) > maxHostName {
		return "", bad
	}
	s = strings.ToLower(s)
	labels := strings.Split(s, ".")
	for _, l := range labels {
		if l == "" || len(l) > maxHostLabel || l[0] == '-' || l[len(l)-1] == '-' {
			return "", bad
		}
		if strings.Trim(l, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			return "", bad
		}
	}
	if strings.Trim(labels[len(labels)-1], "0123456789") == "" {
		return "", errors.New("want a host name or an IP address, not a number")
	}
	return s, nil
}

// parseParams reads the part behind the question mark. Nothing is escaped there:
// no value needs it.
func parseParams(query string, asked bool) (mask string, params map[string]string, err error) {
	mask = defaultMask
	if !asked {
		return mask, nil, nil
	}
	seen := map[string]bool{}
	for pair := range strings.SplitSeq(query, "&") {
		key, value, ok := strings.Cut(pair, "=")
		if !ok || value == "" {
			return "", nil, errors.New("parameters: want name=value, joined by &")
		}
		if seen[key] {
			return "", nil, fmt.Errorf("parameter %q: given twice", key)
		}
		seen[key] = true
		switch key {
		case "mask":
			mask, err = parseMaskName(value)
		case "name":
			value, err = parseHostName(value)
		case "pin":
			_, err = ParsePin(value)
		default:
			return "", nil, fmt.Errorf("unknown parameter %q: want mask, name or pin", key)
		}
		if err != nil {
			return "", nil, fmt.Errorf("parameter %q: %w", key, err)
		}
		if key != "mask" {
			if params == nil {
				params = map[string]string{}
			}
			params[key] = value
		}
	}
	return mask, params, nil
}

func parseMaskName(s string) (string, error) {
	if len(s) > maxMaskName || strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789") != "" {
		return "", fmt.Errorf("want 1 to %d lower-case letters and digits", maxMaskName)
	}
	return s, nil
}

// ParsePin reads the value of the parameter pin: the SHA-256 of a certificate's
// SubjectPublicKeyInfo in unpadded base64url (RFC 4648 section 5), 43 characters.
func ParsePin(s string) (pin [pinSize]byte, err error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != pinSize || strings.ContainsAny(s, "\r\n") {
		return pin, errors.New("want 43 characters of base64url")
	}
	return [pinSize]byte(b), nil
}

// String gives the canonical text form, which ParseDescriptor reads back.
func (d Descriptor) String() string {
	var b strings.Builder
	b.WriteString(scheme + d.Node.String())
	if len(d.Addresses) == 0 {
		return b.String()
	}
	b.WriteString("@" + strings.Join(d.Addresses, ",") + "?mask=" + d.Mask)
	for _, key := range []string{"name", "pin"} {
		if v := d.Params[key]; v != "" {
			b.WriteString("&" + key + "=" + v)
		}
	}
	return b.String()
}

// LogValue keeps network addresses out of logs: only the node address is shown.
func (d Descriptor) LogValue() slog.Value { return slog.StringValue(d.Node.String()) }

// Endpoints gives one endpoint for each address, in order; none when the node is
// the one that opens the link.
func (d Descriptor) Endpoints() []Endpoint {
	var all []Endpoint
	for _, a := range d.Addresses {
		all = append(all, Endpoint{Node: d.Node, Address: a, Params: d.Params})
	}
	return all
}
