#!/bin/sh
# Compiles the commands for every system they are meant for, and vets everything,
# tests too, for macOS, on which no test runs. Nothing is run.
# On mipsle the daemon has no ledger, because modernc.org/sqlite has no port to
# it: it refuses billing.mode = "paid".
set -eu
cd "$(dirname "$0")/../.."
export CGO_ENABLED=0
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
build() { # system/architecture[/arm version] packages...
	target=$1; shift
	os=${target%%/*}; rest=${target#*/}; arch=${rest%%/*}; arm=7
	case $rest in */*) arm=${rest#*/} ;; esac
	GOOS=$os GOARCH=$arch GOARM=$arm go build -trimpath -o "$out/" "$@"
	printf '%-14s ok\n' "$target"
}
check() { # system/architecture
	GOOS=${1%%/*} GOARCH=${1#*/} go vet ./...
	printf '%-14s vetted\n' "$1"
}
build linux/amd64 ./cmd/...
build linux/arm64 ./cmd/cuttled ./cmd/cuttle
build linux/arm/6 ./cmd/cuttled ./cmd/cuttle
build linux/arm/7 ./cmd/cuttled ./cmd/cuttle
build darwin/amd64 ./cmd/cuttled ./cmd/cuttle
build darwin/arm64 ./cmd/cuttled ./cmd/cuttle
check darwin/amd64
check darwin/arm64
GOMIPS=softfloat build linux/mipsle ./cmd/cuttled ./cmd/cuttle
