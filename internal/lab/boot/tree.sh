#!/bin/sh
# Makes a Debian tree with systemd for the tests of this folder: tree.sh FILE.tar.
# A file that is there is kept. It takes the packages from where this machine does.
# INCLUDE names other packages for it, TOOLS what has to be on this machine.
set -eu
include=${INCLUDE:-systemd,systemd-sysv,dbus,nftables,iproute2,polkitd}
out=$1
[ ! -e "$out" ] || exit 0
for tool in ${TOOLS:-mmdebstrap systemd-nspawn nsenter bsdtar}; do
	command -v "$tool" >/dev/null || {
		echo "This needs $tool: apt-get install mmdebstrap systemd-container util-linux libarchive-tools" >&2
		exit 1
	}
done
mkdir -p "$(dirname "$out")"
# shellcheck source=/dev/null
suite=$(. /etc/os-release && [ "$ID" = debian ] && echo "$VERSION_CODENAME" || echo bookworm)
set --
for list in /etc/apt/sources.list /etc/apt/sources.list.d/*.sources /etc/apt/sources.list.d/*.list; do
	if [ -s "$list" ] && grep -q debian "$list"; then set -- "$@" "$list"; fi
done
mmdebstrap --quiet --variant=minbase \
	"--include=$include" \
	"$suite" "$out.new.tar" "$@"
mv "$out.new.tar" "$out"
