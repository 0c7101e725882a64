#!/bin/sh
# OpenWrt, after the files have come: an upgrade starts the daemon again that it
# has ended closed. It starts nothing else, and nothing in an image that is being built.
[ -z "${IPKG_INSTROOT:-}" ] || exit 0
if [ -e /var/run/cuttle.upgrade ]; then
	rm -f /var/run/cuttle.upgrade
	/etc/init.d/cuttled start
fi
exit 0
