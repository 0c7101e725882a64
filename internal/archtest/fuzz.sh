#!/bin/sh
# Runs every fuzz target of the main module for the given time each.
set -eu
cd "$(dirname "$0")/../.."
time=${1:?usage: fuzz.sh TIME, for example 10s}
count=0
for file in $(git ls-files '*_test.go'); do
	for target in $(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$file"); do
		go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" "./$(dirname "$file")" >/tmp/cuttle-fuzz.$$ 2>&1 || {
			cat /tmp/cuttle-fuzz.$$; rm -f /tmp/cuttle-fuzz.$$; exit 1
		}
		count=$((count + 1))
	done
done
rm -f /tmp/cuttle-fuzz.$$
[ "$count" -gt 0 ] || { echo 'no fuzz target found'; exit 1; }
echo "$count fuzz targets, $time each: ok"
