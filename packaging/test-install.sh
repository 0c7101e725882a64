#!/bin/sh
# Installs, upgrades, removes and purges a deb in a clean Debian tree: test-install.sh
# TREE.tar OLD.deb NEW.deb, as root. Nothing boots, so that no systemd has to run here;
# `make test-systemd` is the test that boots.
set -eu
tree=$(realpath "$1") old=$(realpath "$2") new=$(realpath "$3")
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf --one-file-system "$work"' EXIT
fail() { echo "FAIL: $*" >&2; exit 1; }

mkdir "$work/tree"
tar -C "$work/tree" --numeric-owner -xf "$tree"
cp "$old" "$work/tree/root/old.deb"
cp "$new" "$work/tree/root/new.deb"

# within runs a command in the tree. The mount ends with the command's namespace.
within() {
	# shellcheck disable=SC2016 # for the inner shell
	unshare --mount --propagation private sh -euc \
		'mount --rbind /proc "$1/proc"; tree=$1; shift; exec chroot "$tree" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive "$@"' \
		sh "$work/tree" "$@" >"$work/said" 2>&1 || { cat "$work/said" >&2; fail "$*"; }
}

# state lists everything in the tree: kind, mode, owners, size, target and content, but for what
# the package manager writes down about itself and what programs leave behind at any installation.
state() {
	(
		cd "$work/tree"
		find . -xdev \( -path ./proc -o -path ./var/lib/dpkg -o -path ./var/cache -o -path ./var/log -o -path ./root -o -path ./run \) -prune \
			-o \( -path './etc/*-' -o -path './etc/.pwd.lock' \) -prune \
			-o -printf '%p %y %m %U:%G %l\n' | sort
		find etc usr var/lib -xdev -path var/lib/dpkg -prune -o -path 'etc/*-' -prune -o -type f -print0 | sort -z | xargs -0 sha256sum
	)
}

is() { # path, what stat says of it: kind, mode, owner, group
	said=$(chroot "$work/tree" stat -c '%F %a %U %G' "$1") || fail "$1 is missing"
	[ "$said" = "$2" ] || fail "$1 is $said, want $2"
}
gone() { if [ -e "$work/tree$1" ] || [ -L "$work/tree$1" ]; then fail "$1 is still there"; fi; }
enabled() { [ -L "$work/tree/etc/systemd/system/$1" ] || fail "$1 is not enabled"; }

state >"$work/before"
[ "$(wc -l <"$work/before")" -gt 5000 ] || fail "the tree is not whole"
within dpkg -i /root/old.deb
within cuttled check -config /etc/cuttle/cuttled.toml
within cuttle completion bash
is /etc/cuttle "directory 750 root cuttle"
is /etc/cuttle/cuttled.toml "regular file 640 root cuttle"
is /var/lib/cuttle "directory 700 cuttle cuttle"
is /usr/bin/cuttled "regular file 755 root root"
enabled sysinit.target.wants/cuttle-guard.service
enabled sockets.target.wants/cuttle-resolver.socket
gone /etc/systemd/system/multi-user.target.wants/cuttled.service
for unit in cuttled.service cuttle-guard.service cuttle-resolver@.service; do # tenths: at most 2.1
	within systemd-analyze security --no-pager --offline=true --threshold=21 "/usr/lib/systemd/system/$unit"
done

echo '# mine' >>"$work/tree/etc/cuttle/cuttled.toml"
within cuttled identity -state /var/lib/cuttle
within dpkg -i /root/new.deb
grep -q '^# mine$' "$work/tree/etc/cuttle/cuttled.toml" || fail "an upgrade has changed the configuration"
is /etc/cuttle/cuttled.toml "regular file 640 root cuttle"
keys=$(find "$work/tree/var/lib/cuttle" -type f ! -user 0 | wc -l)
[ "$keys" -gt 0 ] || fail "an upgrade has lost the keys, or left them to root"

within dpkg -r cuttle
gone /usr/bin/cuttled
gone /usr/lib/systemd/system/cuttled.service
gone /etc/systemd/system/sysinit.target.wants/cuttle-guard.service
is /etc/cuttle/cuttled.toml "regular file 640 root cuttle"
[ "$(find "$work/tree/var/lib/cuttle" -type f | wc -l)" = "$keys" ] || fail "a removal has lost the keys"
within dpkg -P cuttle
state >"$work/after"
diff "$work/before" "$work/after" >&2 || fail "a purge leaves the above"
echo "$(basename "$old"), then $(basename "$new"): installed, upgraded, removed and purged; the tree is as it was"
