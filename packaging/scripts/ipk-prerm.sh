#!/bin/sh
# OpenWrt: ends the daemon and undoes what it has in force. Not in an image that is being built.
[ -z "${IPKG_INSTROOT:-}" ] || exit 0
/etc/init.d/cuttled stop
if [ -s /etc/cuttle/state/hostnet.journal ] || [ -e /etc/cuttle/state/lock ]; then
	cuttled release -config /etc/cuttle/cuttled.toml
fi
exit 0
