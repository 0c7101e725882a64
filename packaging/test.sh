#!/bin/sh
# Looks into every package in a folder, test.sh FOLDER, and builds those for
# amd64 and mipsle again from a copy of the tree elsewhere: all bytes must be the same.
set -eu
folder=$(cd "$1" && pwd)
cd "$(dirname "$0")/.."
command -v bsdtar >/dev/null || { echo "test.sh needs bsdtar: apt-get install libarchive-tools" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0
fail() { echo "FAIL: $*" >&2; failed=1; }

has() { # package, list of its files, paths
	package=$1 list=$2
	shift 2
	for path; do
		grep -qE "^(\./|/)?$path\$" "$list" || fail "$package lacks $path"
	done
}

looked=0
for package in "$folder"/*; do
	name=$(basename "$package")
	rm -rf "$work/in" && mkdir "$work/in"
	case $name in
	*.deb | *.ipk) # an archive of archives; ipk's outer one is a tar
		bsdtar -C "$work/in" -xf "$package"
		bsdtar -tf "$work"/in/data.tar.* >"$work/list"
		bsdtar -xOf "$work"/in/control.tar.* ./conffiles >"$work/conffiles"
		grep -q '^/etc/cuttle/cuttled.toml$' "$work/conffiles" || fail "$name: the configuration is no conffile"
		;;
	*) bsdtar -tf "$package" >"$work/list" ;;
	esac
	has "$name" "$work/list" usr/bin/cuttled usr/bin/cuttle etc/cuttle/cuttled.toml
	case $name in
	*.ipk) has "$name" "$work/list" etc/init.d/cuttled ;;
	*.apk) has "$name" "$work/list" etc/init.d/cuttled ;;
	*) has "$name" "$work/list" usr/lib/systemd/system/cuttled.service usr/lib/systemd/system/cuttle-guard.service \
		usr/lib/systemd/system/cuttle-resolver.socket usr/lib/systemd/system/cuttle-resolver@.service usr/lib/sysusers.d/cuttle.conf \
		usr/lib/tmpfiles.d/cuttle.conf usr/share/polkit-1/rules.d/50-cuttle.rules ;;
	esac
	case $name in
	*.ipk) ;;
	*) has "$name" "$work/list" usr/share/man/man8/cuttled.8.gz usr/share/bash-completion/completions/cuttle \
		usr/share/zsh/site-functions/_cuttle usr/share/fish/vendor_completions.d/cuttle.fish ;;
	esac
	looked=$((looked + 1))
done
[ "$looked" = 16 ] || fail "$looked packages, want 16: five formats for three processors, and one for mipsle"

sh packaging/again.sh "$folder" amd64 mipsle || failed=1
[ "$failed" = 0 ] || exit 1
echo "$looked packages hold what they should"
