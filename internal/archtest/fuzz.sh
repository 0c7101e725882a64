#!/bin/sh
# Runs every fuzz target, each in its own module: for a time each (10s) or for a
# number of inputs (3000x), as go test -fuzztime takes it. Numbers are what CI
# uses: at the end of a time the go tool now and then reports "context deadline
# exceeded" for a target that found nothing; only that is forgiven here.
set -eu
cd "$(dirname "$0")/../.."
time=${1:?usage: fuzz.sh TIME, for example 10s or 3000x}
log=$(mktemp)
trap 'rm -f "$log"' EXIT
count=0
for file in $(git ls-files '*_test.go'); do
	for target in $(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$file"); do
		if ! (cd "$(dirname "$file")" && go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" .) >"$log" 2>&1; then
			if grep -q 'Failing input' "$log" || ! grep -q '^ *context deadline exceeded$' "$log"; then
				cat "$log"
				exit 1
			fi
			echo "$target: the go tool stopped at its deadline, nothing was found"
		fi
		count=$((count + 1))
	done
done
[ "$count" -gt 0 ] || { echo 'no fuzz target found'; exit 1; }
echo "$count fuzz targets, $time each: ok"
