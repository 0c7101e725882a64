package hostnet

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Registers of the kernel's rule machine: the first 16 bytes, and the four bytes
// that follow a first value of 4 and of 16 bytes.
const (
	register       = unix.NFT_REG_1
	afterAddress4  = unix.NFT_REG32_01
	afterAddress16 = unix.NFT_REG_2
)

// codeProhibited is the code of "admin prohibited" for both families.
const codeProhibited = unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED

// loadRules replaces our table of a family in one transaction: until its end the
// old rules count, from then on the new ones.
func loadRules(family nftables.TableFamily, fill func(*nftables.Conn, *nftables.Table) error) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	t := &nftables.Table{Name: tableName, Family: family}
	c.AddTable(t) // so that there is one to delete
	c.DelTable(t)
	if fill != nil {
		c.AddTable(t)
		if err := fill(c, t); err != nil {
			return err
		}
	}
	return c.Flush()
}

// fillFilter adds f's rules of the family inet to a table.
func (f Filter) fillFilter(c *nftables.Conn, t *nftables.Table) error {
	sets, err := addSets(c, t, f)
	if err != nil {
		return err
	}
	for _, ch := range f.chains() {
		addChain(c, t, ch, nil, "", sets)
	}
	return nil
}

// fillEgress adds f's rules for each of the devices.
func (f Filter) fillEgress(devices []string) func(*nftables.Conn, *nftables.Table) error {
	return func(c *nftables.Conn, t *nftables.Table) error {
		sets, err := addSets(c, t, f)
		if err != nil {
			return err
		}
		for _, d := range devices {
			addChain(c, t, chain{name: egressChain(d), entries: f.egress(d)}, nftables.ChainHookEgress, d, sets)
		}
		return nil
	}
}

// loadFilter puts f's rules of the family inet in force.
func loadFilter(f Filter) error { return loadRules(nftables.TableFamilyINet, f.fillFilter) }

// loadEgress puts f's rules on each of the devices.
func loadEgress(f Filter, devices []string) error {
	return loadRules(nftables.TableFamilyNetdev, f.fillEgress(devices))
}

// filterWorks tries whether the kernel takes f's rules of the family inet. Some
// kernels lack a part of nftables that only some rules need.
func filterWorks(f Filter) bool { return tries(nftables.TableFamilyINet, f.fillFilter) }

// egressWorks does so for the rules of a device, all kinds of them on one.
func egressWorks(f Filter) bool {
	return tries(nftables.TableFamilyNetdev, func(c *nftables.Conn, t *nftables.Table) error {
		sets, err := addSets(c, t, f)
		if err != nil {
			return err
		}
		ch := chain{name: "probe"}
		for _, name := range f.devices() {
			ch.entries = append(ch.entries, f.egress(name)...)
		}
		addChain(c, t, ch, nftables.ChainHookEgress, "lo", sets)
		return nil
	})
}

// tries loads rules into a table of another name and takes them away in the same
// transaction, so that they never count.
func tries(family nftables.TableFamily, fill func(*nftables.Conn, *nftables.Table) error) bool {
	c, err := nftables.New()
	if err != nil {
		return false
	}
	t := c.AddTable(&nftables.Table{Name: tableName + "-probe", Family: family})
	if err := fill(c, t); err != nil {
		return false
	}
	c.DelTable(t)
	return c.Flush() == nil
}

// devices lists the interfaces that get an egress chain, as "index name" and as
// names: all but loopback and the TUN.
func devices(tun string) (keys, names []string, err error) {
	links, err := listLinks()
	if err != nil {
		return nil, nil, fmt.Errorf("list interfaces: %w", err)
	}
	for _, l := range links {
		if a := l.Attrs(); a.Flags&net.FlagLoopback == 0 && a.Name != tun {
			keys = append(keys, fmt.Sprintf("%d %s", a.Index, a.Name))
			names = append(names, a.Name)
		}
	}
	return keys, names, nil
}

func addSets(c *nftables.Conn, t *nftables.Table, f Filter) (map[int]*nftables.Set, error) {
	sets := make(map[int]*nftables.Set)
	for _, family := range []int{4, 6} {
		set, err := addPeers(c, t, f, family)
		if err != nil {
			return nil, err
		}
		sets[family] = set
	}
	return sets, nil
}

func addPeers(c *nftables.Conn, t *nftables.Table, f Filter, family int) (*nftables.Set, error) {
	list := f.peersOf(family)
	if len(list) == 0 {
		return nil, nil
	}
	address := nftables.TypeIPAddr
	if family == 6 {
		address = nftables.TypeIP6Addr
	}
	set := &nftables.Set{Table: t, Name: setName(family), Concatenation: true, KeyType: nftables.MustConcatSetType(address, nftables.TypeInetService)}
	var elements []nftables.SetElement
	for _, p := range list {
		key := append(p.Addr().AsSlice(), byte(p.Port()>>8), byte(p.Port()), 0, 0)
		if !slices.ContainsFunc(elements, func(e nftables.SetElement) bool { return bytes.Equal(e.Key, key) }) {
			elements = append(elements, nftables.SetElement{Key: key})
		}
	}
	if err := c.AddSet(set, elements); err != nil {
		return nil, fmt.Errorf("list peers for the packet filter: %w", err)
	}
	return set, nil
}

// place is where a chain hangs.
func (ch chain) place() (*nftables.ChainHook, *nftables.ChainPriority, nftables.ChainType, nftables.ChainPolicy) {
	switch ch.kind {
	case reroutes:
		return nftables.ChainHookOutput, nftables.ChainPriorityMangle, nftables.ChainTypeRoute, nftables.ChainPolicyAccept
	case arrives:
		return nftables.ChainHookPrerouting, nftables.ChainPriorityMangle, nftables.ChainTypeFilter, nftables.ChainPolicyAccept
	case hides:
		return nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource, nftables.ChainTypeNAT, nftables.ChainPolicyAccept
	}
	hooks := map[string]*nftables.ChainHook{"output": nftables.ChainHookOutput, "input": nftables.ChainHookInput, "forward": nftables.ChainHookForward}
	return hooks[ch.name], nftables.ChainPriorityFilter, nftables.ChainTypeFilter, nftables.ChainPolicyDrop
}

// addChain adds ch at its place, or at hook of a device.
func addChain(c *nftables.Conn, t *nftables.Table, ch chain, hook *nftables.ChainHook, device string, sets map[int]*nftables.Set) {
	at, priority, kind, policy := ch.place()
	if hook != nil {
		at = hook
	}
	kernelChain := c.AddChain(&nftables.Chain{Name: ch.name, Table: t, Hooknum: at, Priority: priority, Type: kind, Policy: &policy, Device: device})
	for _, e := range ch.entries {
		r := &nftables.Rule{Table: t, Chain: kernelChain}
		for _, term := range e.terms {
			r.Exprs = append(r.Exprs, expressions(term, t.Family, sets)...)
		}
		if e.mark != 0 {
			r.Exprs = append(r.Exprs, setMarks(e.mark, e.mask)...)
		}
		switch e.verdict {
		case masquerade:
			r.Exprs = append(r.Exprs, &expr.Masq{})
		case accept:
			r.Exprs = append(r.Exprs, &expr.Verdict{Kind: expr.VerdictAccept})
		case reset:
			r.Exprs = append(r.Exprs, &expr.Reject{Type: unix.NFT_REJECT_TCP_RST})
		case prohibited:
			r.Exprs = append(r.Exprs, &expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: codeProhibited})
		default:
			r.Exprs = append(r.Exprs, &expr.Verdict{Kind: expr.VerdictDrop})
		}
		c.AddRule(r)
	}
}

// expressions is what the kernel runs for one condition.
func expressions(t term, family nftables.TableFamily, sets map[int]*nftables.Set) []expr.Any {
	op := expr.CmpOpEq
	if t.not {
		op = expr.CmpOpNeq
	}
	load := func(base expr.PayloadBase, offset, length uint32) *expr.Payload {
		return &expr.Payload{DestRegister: register, Base: base, Offset: offset, Len: length}
	}
	compare := func(value ...byte) *expr.Cmp { return &expr.Cmp{Op: op, Register: register, Data: value} }
	port := binary.BigEndian.AppendUint16(nil, uint16(t.number))
	switch t.on {
	case inDevice:
		return []expr.Any{&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: register}, compare(deviceName(t.text)...)}
	case outDevice:
		return []expr.Any{&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: register}, compare(deviceName(t.text)...)}
	case packetMark:
		return append([]expr.Any{&expr.Meta{Key: expr.MetaKeyMARK, Register: register}}, masked(native(t.mask), native(t.number))...)
	case socketMark:
		return append([]expr.Any{&expr.Socket{Key: expr.SocketKeyMark, Register: register}}, masked(native(t.mask), native(t.number))...)
	case flowMark:
		return []expr.Any{&expr.Ct{Key: expr.CtKeyMARK, Register: register},
			&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 4, Mask: native(t.mask), Xor: native(0)}, compare(native(t.number)...)}
	case known:
		return flowState(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED)
	case stray:
		return flowState(expr.CtStateBitINVALID)
	case user:
		return []expr.Any{&expr.Meta{Key: expr.MetaKeySKUID, Register: register}, compare(native(t.number)...)}
	case cgroup:
		return []expr.Any{&expr.Socket{Key: expr.SocketKeyCgroupv2, Level: t.number, Register: register}, compare(binary.NativeEndian.AppendUint64(nil, t.long)...)}
	case etherSource:
		mac, err := net.ParseMAC(t.text)
		if err != nil {
			break
		}
		return []expr.Any{&expr.Meta{Key: expr.MetaKeyIIFTYPE, Register: register}, &expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: binary.NativeEndian.AppendUint16(nil, unix.ARPHRD_ETHER)},
			load(expr.PayloadBaseLLHeader, 6, 6), compare(mac...)}
	case clock:
		return []expr.Any{&expr.Meta{Key: metaTime, Register: register},
			&expr.Byteorder{SourceRegister: register, DestRegister: register, Op: expr.ByteorderHton, Len: 8, Size: 8},
			&expr.Cmp{Op: expr.CmpOpLt, Register: register, Data: binary.BigEndian.AppendUint64(nil, t.long)}}
	case protocol:
		return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register}, compare(byte(t.number))}
	case kindOf:
		return []expr.Any{&expr.Meta{Key: expr.MetaKeyPROTOCOL, Register: register}, compare(port...)}
	case etherType:
		return []expr.Any{load(expr.PayloadBaseLLHeader, 12, 2), compare(port...)}
	case sourcePort:
		return []expr.Any{load(expr.PayloadBaseTransportHeader, 0, 2), compare(port...)}
	case destPort:
		return []expr.Any{load(expr.PayloadBaseTransportHeader, 2, 2), compare(port...)}
	case errorType, type6:
		return []expr.Any{load(expr.PayloadBaseTransportHeader, 0, 1), compare(byte(t.number))}
	case fragment6:
		return []expr.Any{
			&expr.Exthdr{DestRegister: register, Type: unix.IPPROTO_FRAGMENT, Len: 1, Flags: unix.NFT_EXTHDR_F_PRESENT, Op: expr.ExthdrOpIpv6},
			compare(1)}
	case hopLimit:
		return []expr.Any{load(expr.PayloadBaseNetworkHeader, 7, 1), compare(byte(t.number))}
	case source, dest:
		return addresses(t, family, op)
	case peerSource, peerDest:
		return peerLookup(t, family, sets[t.family])
	}
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}} // a condition nobody has taught us never lets through
}

// metaTime is NFT_META_TIME_NS of linux/netfilter/nf_tables.h: nanoseconds of the
// system's clock.
const metaTime expr.MetaKey = 30

// flowState wants a flow in one of these states.
func flowState(bits uint32) []expr.Any {
	return []expr.Any{&expr.Ct{Key: expr.CtKeySTATE, Register: register},
		&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 4, Mask: native(bits), Xor: native(0)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: register, Data: native(0)}}
}

// setMarks marks packet and flow, and leaves bits outside of the mask alone.
func setMarks(mark, mask uint32) []expr.Any {
	change := &expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 4, Mask: native(^mask), Xor: native(mark)}
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: register}, change, &expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: register},
		&expr.Ct{Key: expr.CtKeyMARK, Register: register}, change, &expr.Ct{Key: expr.CtKeyMARK, SourceRegister: true, Register: register},
	}
}

func addresses(t term, family nftables.TableFamily, op expr.CmpOp) []expr.Any {
	bits := t.prefix.Addr().BitLen()
	offset, length := addressAt(t.on == source, t.prefix.Addr().Is4())
	out := []expr.Any{}
	if family == nftables.TableFamilyINet {
		out = append(out, onlyFamily(t.prefix.Addr().Is4())...)
	}
	out = append(out, &expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length})
	if t.prefix.Bits() == bits {
		return append(out, &expr.Cmp{Op: op, Register: register, Data: t.prefix.Addr().AsSlice()})
	}
	return append(out, masked(net.CIDRMask(t.prefix.Bits(), bits), t.prefix.Masked().Addr().AsSlice())...)
}

// peerLookup asks the set for address and port together.
func peerLookup(t term, family nftables.TableFamily, set *nftables.Set) []expr.Any {
	offset, length := addressAt(t.on == peerSource, t.family == 4)
	second, port := uint32(afterAddress4), uint32(2)
	if t.family == 6 {
		second = afterAddress16
	}
	if t.on == peerSource {
		port = 0
	}
	var out []expr.Any
	if family == nftables.TableFamilyINet { // else a term before says it
		out = onlyFamily(t.family == 4)
	}
	return append(out,
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register}, &expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{protoTCP}},
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length},
		&expr.Payload{DestRegister: second, Base: expr.PayloadBaseTransportHeader, Offset: port, Len: 2},
		&expr.Lookup{SourceRegister: register, SetName: set.Name, SetID: set.ID})
}

func onlyFamily(v4 bool) []expr.Any {
	family := byte(unix.NFPROTO_IPV6)
	if v4 {
		family = unix.NFPROTO_IPV4
	}
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: register}, &expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{family}}}
}

// addressAt is where an address is in a header (RFC 791, RFC 8200).
func addressAt(source, v4 bool) (offset, length uint32) {
	switch {
	case v4 && source:
		return 12, 4
	case v4:
		return 16, 4
	case source:
		return 8, 16
	}
	return 24, 16
}

func masked(mask, value []byte) []expr.Any {
	return []expr.Any{
		&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: uint32(len(mask)), Mask: mask, Xor: make([]byte, len(mask))},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: value},
	}
}

func native(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }

func deviceName(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}

// listTable writes down all that our table of a family holds now, "" when there
// is none, so that two states can be compared.
func listTable(family nftables.TableFamily) (string, error) {
	c, err := nftables.New()
	if err != nil {
		return "", err
	}
	tables, err := c.ListTablesOfFamily(family)
	if err != nil {
		return "", fmt.Errorf("list tables: %w", err)
	}
	i := slices.IndexFunc(tables, func(t *nftables.Table) bool { return t.Name == tableName })
	if i < 0 {
		return "", nil
	}
	t := tables[i]
	var b strings.Builder
	fmt.Fprintf(&b, "flags %d\n", t.Flags)
	sets, err := c.GetSets(t)
	if err != nil {
		return "", fmt.Errorf("list sets: %w", err)
	}
	var lines []string
	for _, s := range sets {
		elements, err := c.GetSetElements(s)
		if err != nil {
			return "", fmt.Errorf("list elements: %w", err)
		}
		for _, e := range elements {
			lines = append(lines, fmt.Sprintf("%s %x\n", s.Name, e.Key))
		}
	}
	slices.Sort(lines) // a hash table has no order
	b.WriteString(strings.Join(lines, ""))
	chains, err := c.ListChainsOfTableFamily(family)
	if err != nil {
		return "", fmt.Errorf("list chains: %w", err)
	}
	for _, ch := range chains {
		if ch.Table.Name != tableName {
			continue
		}
		fmt.Fprintf(&b, "chain %s %s %s %s %s\n", ch.Name, ch.Type, show(ch.Hooknum), show(ch.Priority), show(ch.Policy))
		rules, err := c.GetRules(t, ch)
		if errors.Is(err, unix.ENOENT) {
			continue // it has gone since
		}
		if err != nil {
			return "", fmt.Errorf("list rules: %w", err)
		}
		for _, r := range rules {
			for _, e := range r.Exprs {
				fmt.Fprintf(&b, "%T%+v ", e, e)
			}
			b.WriteByte('\n')
		}
	}
	return b.String(), nil
}

// show writes an optional number.
func show[T any](n *T) string {
	if n == nil {
		return "none"
	}
	return fmt.Sprint(*n)
}
