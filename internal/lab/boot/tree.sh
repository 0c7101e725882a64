#!/bin/sh
# Makes a Debian tree with systemd for the tests of the installed product:
# tree.sh FILE.tar. It takes the packages from where this machine does, and tries
# three times, since a network may fail for a moment.
set -eu
out=$1
command -v mmdebstrap >/dev/null || {
	echo "This needs mmdebstrap: apt-get install mmdebstrap systemd-container util-linux" >&2
	exit 1
}
mkdir -p "$(dirname "$out")"
# shellcheck source=/dev/null
suite=$(. /etc/os-release && [ "$ID" = debian ] && echo "$VERSION_CODENAME" || echo bookworm)
set --
for list in /etc/apt/sources.list /etc/apt/sources.list.d/*.sources /etc/apt/sources.list.d/*.list; do
	if [ -s "$list" ] && grep -q debian "$list"; then set -- "$@" "$list"; fi
done
for try in 1 2 3; do
	if mmdebstrap --quiet --variant=minbase --aptopt='Acquire::Retries "3"' \
		--include=systemd,systemd-sysv,dbus,nftables,iproute2,polkitd \
		"$suite" "$out.new.tar" "$@"; then
		mv "$out.new.tar" "$out"
		exit 0
	fi
	echo "tree.sh: try $try of 3 has failed" >&2
	sleep $((try * 10))
done
exit 1
