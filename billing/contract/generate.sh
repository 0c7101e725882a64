#!/bin/sh
# Rebuilds what is committed from TestToken.sol: the artifact TestToken.json beside this file and the Go binding
# billing/evm/erc20/token.go. Needs node, npm and go; leaves nothing else behind but node_modules (ignored by git).
# Usage: billing/contract/generate.sh, from anywhere.
set -eu

abigen=github.com/ethereum/go-ethereum/cmd/abigen@v1.17.10

here=$(cd "$(dirname "$0")" && pwd)
cd "$here"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

npm ci --no-fund --no-audit
node compile.js
node -e '
  const fs = require("fs"), a = JSON.parse(fs.readFileSync("TestToken.json"));
  fs.writeFileSync(process.argv[1] + "/abi", JSON.stringify(a.abi));
  fs.writeFileSync(process.argv[1] + "/bin", a.bytecode);
' "$scratch"
GOBIN="$scratch" GOFLAGS= go install "$abigen"
"$scratch/abigen" --v2 --abi "$scratch/abi" --bin "$scratch/bin" --pkg erc20 --type Token --out ../evm/erc20/token.go
gofmt -w ../evm/erc20/token.go
