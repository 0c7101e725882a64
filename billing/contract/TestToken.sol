// SPDX-License-Identifier: MIT
pragma solidity ^0.8.30;

/// @title TestToken
/// @notice A plain ERC-20 (EIP-20) for the lab's own chain. Its whole supply belongs to one holder from the start; it
/// has no owner, no minting, no pause and no fee, so that what a transfer says is what arrives. Never deploy it where
/// a token has a price.
contract TestToken {
    string public constant name = "Cuttle Test Token";
    string public constant symbol = "CTT";
    uint8 public constant decimals = 18;
    uint256 public immutable totalSupply;

    mapping(address holder => uint256 amount) public balanceOf;
    mapping(address holder => mapping(address spender => uint256 amount)) public allowance;

    event Transfer(address indexed from, address indexed to, uint256 value);
    event Approval(address indexed owner, address indexed spender, uint256 value);

    error ZeroAddress();
    error BalanceTooSmall(address holder, uint256 balance, uint256 wanted);
    error AllowanceTooSmall(address spender, uint256 allowed, uint256 wanted);

    constructor(address holder, uint256 supply) {
        if (holder == address(0)) revert ZeroAddress();
        totalSupply = supply;
        balanceOf[holder] = supply;
        emit Transfer(address(0), holder, supply);
    }

    function transfer(address to, uint256 value) external returns (bool) {
        move(msg.sender, to, value);
        return true;
    }

    function approve(address spender, uint256 value) external returns (bool) {
        if (spender == address(0)) revert ZeroAddress();
        allowance[msg.sender][spender] = value;
        emit Approval(msg.sender, spender, value);
        return true;
    }

    function transferFrom(address from, address to, uint256 value) external returns (bool) {
        uint256 allowed = allowance[from][msg.sender];
        if (allowed != type(uint256).max) {
            if (allowed < value) revert AllowanceTooSmall(msg.sender, allowed, value);
            allowance[from][msg.sender] = allowed - value;
        }
        move(from, to, value);
        return true;
    }

    function move(address from, address to, uint256 value) private {
        if (to == address(0)) revert ZeroAddress();
        uint256 balance = balanceOf[from];
        if (balance < value) revert BalanceTooSmall(from, balance, value);
        unchecked {
            balanceOf[from] = balance - value; // checked above
            balanceOf[to] += value; // all balances together never exceed totalSupply
        }
        emit Transfer(from, to, value);
    }
}
