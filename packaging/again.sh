#!/bin/sh
# Builds packages again from a copy of the tree elsewhere, without git, and compares:
# again.sh FOLDER ARCH... The environment is that of build.sh. All bytes must be the same.
set -eu
folder=$(cd "$1" && pwd)
shift
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Without git what the time is must be said. The files of the copy get another one.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH
mkdir "$work/elsewhere"
git ls-files -z --cached --others --exclude-standard | tar --null -T - --ignore-failed-read -cf - | tar -C "$work/elsewhere" -mxf -
sh "$work/elsewhere/packaging/build.sh" "$work/again" "$@" >/dev/null
failed=0
for package in "$work"/again/*; do
	cmp "$package" "$folder/$(basename "$package")" || { echo "FAIL: $(basename "$package") differs when it is built again" >&2; failed=1; }
done
[ "$failed" = 0 ] || exit 1
echo "$(find "$work/again" -type f | wc -l) packages are the same when built again elsewhere"
