#!/bin/sh
# Rebuilds what is committed from the contracts' sources: the artifacts NAME.json beside this file and the Go bindings
# billing/evm/erc20/token.go and billing/evm/hub/binding.go. Needs node, npm and go; leaves nothing else behind but
# node_modules (ignored by git).
# Usage: billing/contract/generate.sh, from anywhere; generate.sh -check compiles only and says whether the committed
# artifacts are what the compiler gives.
set -eu

abigen=github.com/ethereum/go-ethereum/cmd/abigen@v1.17.10

here=$(cd "$(dirname "$0")" && pwd)
cd "$here"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

npm ci --no-fund --no-audit
if [ "${1:-}" = -check ]; then
  node compile.js "$scratch"
  for a in TestToken Hub; do cmp "$a.json" "$scratch/$a.json"; done
  echo 'contracts: the artifacts are what the compiler gives'
  exit
fi
node compile.js
GOBIN="$scratch" GOFLAGS= go install "$abigen"
# bind CONTRACT PACKAGE TYPE FILE
bind() {
  node -e '
    const fs = require("fs"), a = JSON.parse(fs.readFileSync(process.argv[1] + ".json"));
    fs.writeFileSync(process.argv[2] + "/abi", JSON.stringify(a.abi));
    fs.writeFileSync(process.argv[2] + "/bin", a.bytecode);
  ' "$1" "$scratch"
  "$scratch/abigen" --v2 --abi "$scratch/abi" --bin "$scratch/bin" --pkg "$2" --type "$3" --out "../evm/$2/$4"
  gofmt -w "../evm/$2/$4"
}
bind TestToken erc20 Token token.go
bind Hub hub Hub binding.go
