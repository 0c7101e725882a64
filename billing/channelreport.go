package billing

import "context"

// ChannelReport is a channel of the hub with a neighbor. Amounts are ledger
// units of the present epoch.
type ChannelReport struct {
	WePay    bool
	Open     bool
	Closing  bool   // a close was asked for, or a notice runs
	Epoch    uint64 // 0: never opened
	Deposit  Amount // paid in, cashed or not, deep enough to be believed
	Vouchers Amount // given or held
	Cashed   Amount // of these
}

// reportChannels reads the channels with a neighbor.
func (b *Book) reportChannels(ctx context.Context, p *peer, r *NeighborReport) error {
	r.Way = b.settler.Way()
	if c, ok := b.settler.(*channels); ok && c.partner(p) == nil {
		r.Way = WayDirect
	}
	rows, err := b.ledger.read.QueryContext(ctx, "SELECT "+channelColumns+" FROM channel WHERE neighbor = ? ORDER BY id", p.row)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		c, err := scanChannel(rows)
		if err != nil {
			return err
		}
		r.Channels = append(r.Channels, ChannelReport{
			WePay: c.dir == 0, Open: c.open(), Closing: c.closing || c.closeAt != 0, Epoch: c.epoch, Deposit: c.totalUnits, Vouchers: c.counted, Cashed: c.paidUnits,
		})
	}
	return rows.Err()
}
