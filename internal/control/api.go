package control

// Schema is the version of the JSON below. It grows when a field changes its
// meaning or goes away; new fields do not change it.
const Schema = 1

// State is what the node is doing with this machine's traffic.
type State string

// The states. Only a node whose client is enabled leaves Off.
const (
	StateOff        State = "off"        // traffic is not captured
	StateConnecting State = "connecting" // captured; no circuit is open yet
	StateUp         State = "up"         // captured and carried
	StateBlocked    State = "blocked"    // captured, cannot be carried; Problems says why
	StateDraining   State = "draining"   // going down
)

// Problem is one thing that is wrong, for a person.
type Problem struct {
	Text string `json:"text"`           // "not enough gas on the consuming wallet"
	Hint string `json:"hint"`           // what to do: "send 0.01 ETH to 0x... on chain 1337"
	Area string `json:"area,omitempty"` // AreaMoney; "": this machine's traffic
	// Stays says that waiting does not end it: somebody has to choose otherwise.
	Stays bool `json:"stays,omitempty"`
}

// AreaMoney is the area of problems with payments, which by themselves keep no
// traffic from being carried.
const AreaMoney = "money"

// Status is the answer to GET /v1/status.
type Status struct {
	Schema   int         `json:"schema"`
	Version  string      `json:"version"`
	Node     string      `json:"node"`  // node address, 52 characters
	Roles    []string    `json:"roles"` // "client", "relay", "exit"
	State    State       `json:"state"`
	Since    int64       `json:"since"` // Unix seconds, start of State
	PID      int         `json:"pid"`
	Started  int64       `json:"started"`  // Unix seconds
	Locked   bool        `json:"locked"`   // the machine is closed while State is off, too
	TUN      string      `json:"tun"`      // interface name, "" when there is none
	Hops     int         `json:"hops"`     // wanted per circuit
	Listen   []Listening `json:"listen"`   // where masks listen
	Links    int         `json:"links"`    // links that are up now
	Circuits int         `json:"circuits"` // our own open circuits
	Relayed  int         `json:"relayed"`  // circuits of others that pass through here
	Exit     string      `json:"exit"`     // node address of the exit in use, "" when none
	Seen     []string    `json:"seen"`     // IP addresses under which the exit says destinations see it; empty: not known
	Problems []Problem   `json:"problems"`
}

// Listening is one place where the node can be reached.
type Listening struct {
	Mask    string `json:"mask"`
	Address string `json:"address"` // host:port, as bound
}

// CircuitState is where one of our own circuits stands.
type CircuitState string

// The states of a circuit.
const (
	CircuitBuilding CircuitState = "building"
	CircuitOpen     CircuitState = "open"
	CircuitDraining CircuitState = "draining" // takes no new streams
	CircuitClosed   CircuitState = "closed"
)

// Hop is one relay of a circuit.
type Hop struct {
	Node    string `json:"node"`    // node address
	Country string `json:"country"` // as its record says, "" when it says nothing
	Tier    uint8  `json:"tier"`    // what this hop is paid for the circuit
}

// Circuit is one of our own circuits; those of others are not listed anywhere.
type Circuit struct {
	ID      string       `json:"id"`
	State   CircuitState `json:"state"`
	Hops    []Hop        `json:"hops"`    // from our neighbor to the exit
	Exit    string       `json:"exit"`    // node address of the last hop
	Since   int64        `json:"since"`   // Unix seconds
	Streams int          `json:"streams"` // open streams and UDP flows
}

// Circuits is the answer to GET /v1/circuits.
type Circuits struct {
	Schema   int       `json:"schema"`
	Circuits []Circuit `json:"circuits"`
}

// Exit is one exit of the network map.
type Exit struct {
	Node      string   `json:"node"`
	Country   string   `json:"country"`   // as its record says, "" when it says nothing
	Families  []string `json:"families"`  // of "ipv4", "ipv6"
	Tier      uint8    `json:"tier"`      // the exit's price
	PathTier  uint8    `json:"path_tier"` // what our first relay would be paid on a path that was found; 0 without one
	Price     string   `json:"price"`     // token per 10^9 bytes of such a path, decimal; "" without one
	Reachable bool     `json:"reachable"` // there is a path now that our settings allow
	Reason    string   `json:"reason"`    // why it is not reachable
}

// Exits is the answer to GET /v1/exits.
type Exits struct {
	Schema int    `json:"schema"`
	Exits  []Exit `json:"exits"`
}

// Traffic is the answer to GET /v1/traffic. Counters start at 0 when the
// interface comes up; rates are the caller's to compute.
type Traffic struct {
	Schema   int    `json:"schema"`
	Time     int64  `json:"time_ms"`   // Unix milliseconds of the reading
	Sent     uint64 `json:"sent"`      // bytes that programs of this machine sent into the interface
	Received uint64 `json:"received"`  // bytes that they were given
	CellSize int    `json:"cell_size"` // bytes of one cell on a link, for Neighbor.Cells
}

// Allowed is the answer to GET /v1/allowed: what may be seen on the physical
// devices of this machine, for `cuttle selftest`. It names peers' IP addresses,
// so it is for nothing else.
type Allowed struct {
	Schema int      `json:"schema"`
	TUN    string   `json:"tun"`
	Any    bool     `json:"any"`    // frames to others are not judged: an exit, a neighbor known by name, LAN access, a split or a router
	Peers  []string `json:"peers"`  // IP:port of the neighbors
	Listen []uint16 `json:"listen"` // ports at which neighbors reach us
}

// LinkState is where the link to a neighbor stands.
type LinkState string

// The states of a link.
const (
	LinkUp         LinkState = "up"
	LinkConnecting LinkState = "connecting" // we open it: trying
	LinkWaiting    LinkState = "waiting"    // the neighbor opens it
	LinkRefused    LinkState = "refused"    // banned, or payment is due
)

// Cells counts whole cells of one link by who pays, since the link came up.
type Cells struct {
	Payer    string `json:"payer"` // "we" or "they"
	Sent     uint64 `json:"sent"`
	Received uint64 `json:"received"`
}

// Neighbor is one neighbor and the link to it.
type Neighbor struct {
	Node      string    `json:"node"`
	State     LinkState `json:"state"`
	Mask      string    `json:"mask"`
	Initiator bool      `json:"initiator"` // we opened the link
	Since     int64     `json:"since"`     // Unix seconds, when the link came up
	RTT       float64   `json:"rtt_ms"`    // milliseconds, 0 when not measured
	Circuits  int       `json:"circuits"`  // circuits on the link, everybody's
	Cells     []Cells   `json:"cells"`
	Error     string    `json:"error"` // why it is not up, "" when it is
}

// Neighbors is the answer to GET /v1/neighbors.
type Neighbors struct {
	Schema    int        `json:"schema"`
	Neighbors []Neighbor `json:"neighbors"`
}

// Tally is one counter as both neighbors had it at the last marker they compared.
type Tally struct {
	Direction string `json:"direction"` // "sent" or "received", seen from here
	Payer     string `json:"payer"`     // "we" or "they"
	Tier      uint8  `json:"tier"`
	Ours      uint64 `json:"ours"`   // cells by our count
	Theirs    uint64 `json:"theirs"` // cells by the neighbor's count
	Equal     bool   `json:"equal"`
}

// PaymentState is where one payment stands.
type PaymentState string

// The states of a payment.
const (
	PaymentPlanned   PaymentState = "planned"   // in the journal, not broadcast yet
	PaymentPending   PaymentState = "pending"   // broadcast or announced; not in a block, or too few confirmations
	PaymentConfirmed PaymentState = "confirmed" // credited
	PaymentFailed    PaymentState = "failed"    // will not be credited
)

// Payment is one on-chain settlement between us and a neighbor.
type Payment struct {
	Direction     string       `json:"direction"` // "out" we paid, "in" we were paid
	State         PaymentState `json:"state"`
	Units         string       `json:"units"`         // ledger units (1e-9 token), decimal
	Amount        string       `json:"amount"`        // the same in token, decimal
	Tx            string       `json:"tx"`            // transaction hash, "" before it exists
	Block         uint64       `json:"block"`         // 0 until it is in one
	Confirmations uint64       `json:"confirmations"` // blocks on top, itself included; 0 for payments received, which are shown once confirmed
	Time          int64        `json:"time"`          // Unix seconds, when it was journaled or announced
}

// Account is what is between us and one neighbor. Amounts ending in Units are
// decimal strings of ledger units (1e-9 token), the others of whole token.
type Account struct {
	Node         string    `json:"node"`
	Tallies      []Tally   `json:"tallies"`
	Agreed       bool      `json:"agreed"` // every tally is equal
	OwedUnits    string    `json:"owed_units"`
	Owed         string    `json:"owed"` // what we owe the neighbor now
	DueUnits     string    `json:"due_units"`
	Due          string    `json:"due"` // what the neighbor owes us now
	EarnedUnits  string    `json:"earned_units"`
	Earned       string    `json:"earned"` // charged to the neighbor since the beginning
	SpentUnits   string    `json:"spent_units"`
	Spent        string    `json:"spent"`         // charged by the neighbor since the beginning
	SpentPerGB   string    `json:"spent_per_gb"`  // token for 10^9 bytes that we paid for, "" without any
	EarnedPerGB  string    `json:"earned_per_gb"` // likewise, that the neighbor paid for
	State        string    `json:"state"`         // how we treat the neighbor: "active", "warned", "throttled", "cut", "disputed"
	Reason       string    `json:"reason"`        // why it is not active, in words
	Since        int64     `json:"since"`         // Unix seconds, of State; 0: not known
	Limit        string    `json:"limit"`         // what it may owe at present, token
	Restore      string    `json:"restore"`       // what it has to pay to be active, token; "0": nothing, or no payment helps
	TheirState   string    `json:"their_state"`   // how it says that it treats us, "" before it has
	TheirReason  string    `json:"their_reason"`
	TheirLimit   string    `json:"their_limit"`
	TheirRestore string    `json:"their_restore"`
	TheirLate    string    `json:"their_late"`    // what it says that it pays when fees are lower, token; "0": nothing
	TheirLateTx  string    `json:"their_late_tx"` // the transaction signed for it, "" before
	Wallet       string    `json:"wallet"`        // the neighbor's earning address, "" when unknown
	Payments     []Payment `json:"payments"`
}

// Wallet is one of our own addresses with what it holds.
type Wallet struct {
	Purpose string `json:"purpose"` // "consuming" or "earning"
	Address string `json:"address"`
	Token   string `json:"token"`   // balance in token, decimal, "" when not known
	Gas     string `json:"gas"`     // balance of the chain's own coin, decimal, "" when not known
	Checked int64  `json:"checked"` // Unix seconds, 0 for never
}

// Ledger is the answer to GET /v1/ledger.
type Ledger struct {
	Schema    int       `json:"schema"`
	Mode      string    `json:"mode"` // "none", "account" or "paid"
	ChainID   uint64    `json:"chain_id"`
	Token     string    `json:"token"` // contract address
	ChainOK   bool      `json:"chain_ok"`
	Block     uint64    `json:"block"`  // newest block seen
	Frozen    bool      `json:"frozen"` // nobody is cut off for now, since payments to us may have been missed
	Wallets   []Wallet  `json:"wallets"`
	Accounts  []Account `json:"accounts"`
	Problems  []Problem `json:"problems"`
	TotalOwed string    `json:"total_owed"` // token, decimal
	TotalDue  string    `json:"total_due"`  // token, decimal
	Fees      string    `json:"fees"`       // of the chain's own coin that our payments have cost, decimal; "" without a chain
}

// Done is the answer to the POST verbs up, down, lock, unlock and pay.
type Done struct {
	Schema int   `json:"schema"`
	State  State `json:"state"` // after the verb
}

// Failure is the body of every answer that is not 200.
type Failure struct {
	Schema int    `json:"schema"`
	Text   string `json:"error"`
	Hint   string `json:"hint,omitempty"`
}
