#!/bin/sh
# Packs the user commands, the commented default configuration, the unit and the
# documents into bin/cuttle-SYSTEM-ARCH.tar.gz; two runs give identical bytes.
set -eu
cd "$(dirname "$0")/.."
os=$(go env GOOS) arch=$(go env GOARCH)
name=cuttle-$os-$arch
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
mkdir -p "$dir/$name/doc"
cp bin/cuttled bin/cuttle systemd/cuttled.service systemd/cuttle-guard.service "$dir/$name/"
cp internal/config/default.toml "$dir/$name/cuttled.toml"
cp README.md docs/*.md "$dir/$name/doc/"
tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -C "$dir" -cf - "$name" | gzip -n > "bin/$name.tar.gz"
echo "bin/$name.tar.gz"
