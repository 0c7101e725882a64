package billing

import "context"

// ChannelReport is a channel of the hub with a neighbor. Amounts are ledger
// units of the present epoch.
type ChannelReport struct {
	ID       int64
	WePay    bool
	Open     bool
	Closing  bool   // a close was asked for, or a notice runs
	Epoch    uint64 // 0: never opened
	Deposit  Amount // paid in, cashed or not, deep enough to be believed
	Vouchers Amount // given or held
	Cashed   Amount // of these
	Payer    string // EIP-55, likewise
	Payee    string
	CloseAt  uint64 // Unix seconds from which the payer can close; 0: no notice runs
	Target   Amount // what Deposit is to be
	UnderWay string // what is being done to it on the chain; "": nothing
}

// reportChannels reads the channels with a neighbor.
func (b *Book) reportChannels(ctx context.Context, p *peer, r *NeighborReport) (err error) {
	r.Way = b.settler.Way()
	if c, ok := b.settler.(*channels); ok && c.partner(p) == nil {
		r.Way = WayDirect
	}
	r.Channels, err = b.ledger.reportChannels(ctx, "neighbor = ?2", p.row)
	return err
}
