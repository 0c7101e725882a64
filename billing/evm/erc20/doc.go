// Package erc20 is the Go binding of the lab's test token (EIP-20), generated
// by billing/contract/generate.sh from TestToken.sol. billing/evm uses its
// encoders for any ERC-20 token; the lab deploys its bytecode. It holds no state.
package erc20

//go:generate ../../contract/generate.sh
