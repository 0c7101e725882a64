package wire

// Sizes of keys and handshake messages in bytes, docs/protocol.md sections 1 to 3.
const (
	KEMPublicSize = 1216 // public key of MLKEM768-X25519
	KEMEncSize    = 1120 // encapsulation of MLKEM768-X25519
	ExtSize       = 64   // extension block of a handshake message
	IdentitySize  = 4096 // identity block of a link's first message
	MaxRecordSize = 4000 // a node's record

	HopMsg1Size  = KEMEncSize + KEMPublicSize + TagSize + ExtSize + TagSize
	HopMsg2Size  = KEMEncSize + ExtSize + TagSize
	LinkMsg1Size = KEMEncSize + KEMPublicSize + TagSize + IdentitySize + TagSize + ExtSize + TagSize
	LinkMsg2Size = KEMEncSize + KEMEncSize + TagSize + ExtSize + TagSize
	LinkMsg3Size = ExtSize + TagSize
)

// Sizes of a link's records and frames in bytes, docs/protocol.md section 5.
const (
	MaxRecord     = 65536       // plaintext of one link record, at most
	RecordHead    = 3 + TagSize // sealed length in front of a link record
	RecordTail    = TagSize     // tag behind a link record
	CellFrameSize = 1 + 4 + BodySize
	MaxBill       = 4096 // content of a BILL frame, at most
	MaxPad        = 1<<16 - 1
	PadOverhead   = 3 // the smallest PAD frame
	InitialCredit = 128
)

// Sizes of a circuit's payloads in bytes, docs/protocol.md sections 4.3 and 6.
const (
	MaxControl        = 4096 // a circuit message, assembled
	FragmentOverhead  = 2
	SessionPacketSize = PayloadSize - 1 // frames of one session packet, at most
	DataOverhead      = 1 + 4 + 2       // DATA frame without its bytes
	DatagramOverhead  = 1 + 4 + 1 + 2   // DATAGRAM frame without its bytes, place and peer
	PlaceSize         = 2 + 1           // the number and place of a fragment in a DATAGRAM frame
	MaxPeerSize       = 1 + 16 + 2      // the peer in a DATAGRAM frame
	MaxOpenSize       = 1 + 4 + 1 + 1 + 16 + 2
	StreamWindow      = 262144 // bytes each direction of a stream may send at first
	LeastWindow       = 262144 // bytes of sent packets a side of a session may keep at least
)
