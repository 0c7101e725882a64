#!/bin/sh
# Says in one sentence what is missing for the lab and the namespace tests.
if [ "$(uname -s)" != Linux ]; then
	echo "This needs Linux, since it builds a network out of network namespaces; on $(uname -s) use the packages instead." >&2
	exit 1
fi
if [ "$(id -u)" != 0 ]; then
	echo "This needs root, since it makes network namespaces and a TUN device: run it with sudo." >&2
	exit 1
fi
if [ ! -c /dev/net/tun ]; then
	echo "This needs /dev/net/tun, which is missing here: load the tun module with 'modprobe tun'." >&2
	exit 1
fi
if ! command -v go >/dev/null 2>&1 && [ ! -x /usr/local/go/bin/go ]; then
	echo "This needs Go 1.25 or later, which is not on root's PATH: install it or run sudo with --preserve-env=PATH." >&2
	exit 1
fi
