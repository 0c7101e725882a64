// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

interface IERC20 {
    function balanceOf(address holder) external view returns (uint256);
    function transfer(address to, uint256 value) external returns (bool);
    function transferFrom(address from, address to, uint256 value) external returns (bool);
    function permit(address owner, address spender, uint256 value, uint256 deadline, uint8 v, bytes32 r, bytes32 s) external;
}

/// @title Hub
/// @notice One-way payment channels in one ERC-20 token. A payer locks a deposit for one payee and hands it vouchers
/// off-chain, each for a growing total; the payee cashes the last one whenever it likes. The payer gets the rest back
/// after a notice, during which the payee can still cash. Nobody owns the hub, nobody can change or stop it, and it
/// takes no fee. Whoever pays the gas, money goes to the payee of a voucher or back to the payer of the channel.
/// @dev Vouchers are EIP-712 typed data. Storage is changed before the token is called; a transient lock (EIP-1153)
/// keeps a token from calling back, which matters because deposits are measured by the change of the hub's balance.
contract Hub {
    /// @dev One slot for the money, one for the rest. An open channel has a signer.
    struct Channel {
        uint128 deposit; // locked and not paid out
        uint128 paid; // paid out since it was opened
        uint48 epoch; // grows each time it is opened: older vouchers die
        uint48 closeAt; // when the payer may close; 0: no notice was given
        address signer; // signs vouchers; the payer's wallet need not
    }

    struct Claim {
        address payer;
        address payee;
        uint128 cumulative;
        bytes sig; // r, s, v: 65 bytes
    }

    bytes32 private constant DOMAIN_TYPE =
        keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)");
    bytes32 private constant VOUCHER_TYPE =
        keccak256("Voucher(address payer,address payee,uint64 epoch,uint128 cumulative)");
    bytes32 private constant CLOSE_TYPE =
        keccak256("Close(address payer,address payee,uint64 epoch,uint128 cumulative)");
    bytes32 private constant NAME = keccak256("Cuttle Hub");
    bytes32 private constant VERSION = keccak256("1");
    uint256 private constant HALF_ORDER = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0;

    address public immutable token;
    uint256 public immutable notice; // seconds from requestClose to close

    mapping(address payer => mapping(address payee => Channel)) public channels;
    bool private transient entered;

    event Opened(address indexed payer, address indexed payee, uint64 epoch, address signer, uint128 amount);
    event ToppedUp(address indexed payer, address indexed payee, uint64 epoch, uint128 amount);
    event Cashed(address indexed payer, address indexed payee, uint64 epoch, uint128 cumulative, uint128 amount, bool bounced);
    event CloseRequested(address indexed payer, address indexed payee, uint64 epoch, uint256 closeAt);
    event Closed(address indexed payer, address indexed payee, uint64 epoch, uint128 returned);

    error BadParty();
    error AlreadyOpen();
    error NotOpen();
    error NothingDeposited();
    error TooMuch();
    error NoticeRuns(uint256 closeAt);
    error BadSignature();
    error TokenRefused();
    error Reentered();

    modifier alone() {
        if (entered) revert Reentered();
        entered = true;
        _;
        entered = false;
    }

    constructor(address token_, uint256 notice_) {
        if (token_.code.length == 0) revert BadParty();
        if (notice_ == 0 || notice_ > 365 days) revert NoticeRuns(notice_);
        token = token_;
        notice = notice_;
    }

    /// @notice Opens the sender's channel to payee with amount of the token, which the sender has approved.
    function open(address payee, address signer, uint256 amount) external alone {
        _open(payee, signer, amount);
    }

    /// @notice The same in one step for tokens with permit (EIP-2612).
    function openWithPermit(address payee, address signer, uint256 amount, uint256 deadline, uint8 v, bytes32 r, bytes32 s)
        external
        alone
    {
        // Somebody may have used the permit already; then the allowance is there, or the transfer fails.
        try IERC20(token).permit(msg.sender, address(this), amount, deadline, v, r, s) {} catch {}
        _open(payee, signer, amount);
    }

    /// @notice Adds to the sender's open channel and takes back a notice.
    function topUp(address payee, uint256 amount) external alone {
        Channel storage c = _opened(msg.sender, payee);
        c.closeAt = 0;
        uint128 got = _deposit(c, amount);
        emit ToppedUp(msg.sender, payee, c.epoch, got);
    }

    /// @notice Pays what vouchers are good for and is not paid yet; anybody may call it. A claim that is not valid, or
    /// not worth more than was paid, is passed over, so that one payer cannot spoil a batch. Claims of one payee in a row
    /// share a transfer.
    /// @return total what was paid
    function cash(Claim[] calldata claims) external alone returns (uint256 total) {
        uint256 due;
        for (uint256 i = 0; i < claims.length; i++) {
            Claim calldata claim = claims[i];
            due += _cash(claim);
            if (due > 0 && (i + 1 == claims.length || claims[i + 1].payee != claim.payee)) {
                total += due;
                _pay(claim.payee, due);
                due = 0;
            }
        }
    }

    /// @notice Starts the notice after which the sender may close its channel to payee.
    function requestClose(address payee) external alone {
        Channel storage c = _opened(msg.sender, payee);
        if (c.closeAt != 0) revert NoticeRuns(c.closeAt);
        uint256 closeAt = block.timestamp + notice;
        c.closeAt = uint48(closeAt);
        emit CloseRequested(msg.sender, payee, c.epoch, closeAt);
    }

    /// @notice Gives the sender back what is left in its channel to payee, after the notice.
    function close(address payee) external alone {
        Channel storage c = _opened(msg.sender, payee);
        if (c.closeAt == 0 || block.timestamp < c.closeAt) revert NoticeRuns(c.closeAt);
        _close(c, msg.sender, payee);
    }

    /// @notice The payee gives the payer back what is left, at once. It cashes before.
    function closeByPayee(address payer) external alone {
        _close(_opened(payer, msg.sender), payer, msg.sender);
    }

    /// @notice Pays the payee up to cumulative and the payer the rest, at once, as both have signed: the payer with the
    /// channel's signer, the payee with its own key. Anybody may call it.
    function closeTogether(address payer, address payee, uint128 cumulative, bytes calldata payerSig, bytes calldata payeeSig)
        external
        alone
    {
        Channel storage c = _opened(payer, payee);
        bytes32 h = _hash(CLOSE_TYPE, payer, payee, c.epoch, cumulative);
        if (_recover(h, payerSig) != c.signer || _recover(h, payeeSig) != payee) revert BadSignature();
        uint256 due = _take(c, payer, payee, cumulative);
        if (due > 0) _pay(payee, due);
        _close(c, payer, payee);
    }

    /// @notice What the signer of a channel signs for a voucher.
    function digest(address payer, address payee, uint64 epoch, uint128 cumulative) external view returns (bytes32) {
        return _hash(VOUCHER_TYPE, payer, payee, epoch, cumulative);
    }

    /// @notice What both sides sign to close together.
    function closeDigest(address payer, address payee, uint64 epoch, uint128 cumulative) external view returns (bytes32) {
        return _hash(CLOSE_TYPE, payer, payee, epoch, cumulative);
    }

    function _open(address payee, address signer, uint256 amount) private {
        if (payee == address(0) || payee == address(this) || payee == token || payee == msg.sender || signer == address(0)) {
            revert BadParty();
        }
        Channel storage c = channels[msg.sender][payee];
        if (c.signer != address(0)) revert AlreadyOpen();
        c.signer = signer;
        c.epoch += 1;
        c.paid = 0;
        c.closeAt = 0;
        uint128 got = _deposit(c, amount);
        emit Opened(msg.sender, payee, c.epoch, signer, got);
    }

    function _opened(address payer, address payee) private view returns (Channel storage c) {
        c = channels[payer][payee];
        if (c.signer == address(0)) revert NotOpen();
    }

    /// @dev Takes amount from the sender and adds what has really arrived.
    function _deposit(Channel storage c, uint256 amount) private returns (uint128) {
        uint256 before = IERC20(token).balanceOf(address(this));
        _call(abi.encodeCall(IERC20.transferFrom, (msg.sender, address(this), amount)));
        uint256 got = IERC20(token).balanceOf(address(this)) - before;
        if (got == 0) revert NothingDeposited();
        // A cumulative is a uint128, so what an epoch can ever pay must be one too.
        if (got > type(uint128).max || uint256(c.deposit) + c.paid + got > type(uint128).max) revert TooMuch();
        c.deposit += uint128(got);
        return uint128(got);
    }

    /// @dev Books one claim; what is due for it.
    function _cash(Claim calldata claim) private returns (uint256) {
        Channel storage c = channels[claim.payer][claim.payee];
        address signer = c.signer;
        if (signer == address(0) || claim.cumulative <= c.paid) return 0;
        if (_recover(_hash(VOUCHER_TYPE, claim.payer, claim.payee, c.epoch, claim.cumulative), claim.sig) != signer) return 0;
        return _take(c, claim.payer, claim.payee, claim.cumulative);
    }

    /// @dev Moves from deposit to paid up to cumulative, or what there is.
    function _take(Channel storage c, address payer, address payee, uint128 cumulative) private returns (uint128 due) {
        uint128 paid = c.paid;
        if (cumulative <= paid) return 0;
        uint128 deposit = c.deposit;
        due = cumulative - paid;
        bool bounced = due > deposit;
        if (bounced) due = deposit;
        c.deposit = deposit - due;
        c.paid = paid + due;
        emit Cashed(payer, payee, c.epoch, cumulative, due, bounced);
    }

    function _close(Channel storage c, address payer, address payee) private {
        uint128 rest = c.deposit;
        c.deposit = 0;
        c.closeAt = 0;
        c.signer = address(0);
        emit Closed(payer, payee, c.epoch, rest);
        if (rest > 0) _pay(payer, rest);
    }

    function _pay(address to, uint256 amount) private {
        _call(abi.encodeCall(IERC20.transfer, (to, amount)));
    }

    /// @dev Calls the token. Nothing returned counts as success (old tokens), false does not.
    function _call(bytes memory data) private {
        (bool ok, bytes memory ret) = token.call(data);
        if (!ok || (ret.length != 0 && (ret.length < 32 || !abi.decode(ret, (bool))))) revert TokenRefused();
    }

    function _hash(bytes32 kind, address payer, address payee, uint64 epoch, uint128 cumulative) private view returns (bytes32) {
        bytes32 domain = keccak256(abi.encode(DOMAIN_TYPE, NAME, VERSION, block.chainid, address(this)));
        return keccak256(abi.encodePacked(hex"1901", domain, keccak256(abi.encode(kind, payer, payee, epoch, cumulative))));
    }

    /// @dev The signer, or zero: only one of a signature's forms counts (s in the lower half, v 27 or 28).
    function _recover(bytes32 h, bytes calldata sig) private pure returns (address) {
        if (sig.length != 65) return address(0);
        bytes32 r = bytes32(sig[:32]);
        bytes32 s = bytes32(sig[32:64]);
        uint8 v = uint8(sig[64]);
        if (uint256(s) > HALF_ORDER || (v != 27 && v != 28)) return address(0);
        return ecrecover(h, v, r, s);
    }
}
