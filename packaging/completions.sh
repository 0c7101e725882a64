#!/bin/sh
# Writes the shell completions, which the command makes itself: completions.sh CUTTLE FOLDER.
set -eu
cuttle=$1 out=$2
mkdir -p "$out"
for shell in bash zsh fish; do
	"$cuttle" completion "$shell" >"$out/$shell"
done
