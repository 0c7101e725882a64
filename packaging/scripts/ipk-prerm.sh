#!/bin/sh
# OpenWrt, before the files go: ends the daemon and undoes what it has in force.
# An upgrade ends it closed, leaves the lock as it is, and lets ipk-postinst.sh
# start the new one. Not in an image that is being built.
[ -z "${IPKG_INSTROOT:-}" ] || exit 0
if [ "${PKG_UPGRADE:-0}" = 1 ]; then
	if /etc/init.d/cuttled running; then
		touch /var/run/cuttle.upgrade
		CUTTLE_CLOSED=1 /etc/init.d/cuttled stop
	fi
	exit 0
fi
/etc/init.d/cuttled stop
if [ -s /etc/cuttle/state/hostnet.journal ] || [ -e /etc/cuttle/state/lock ]; then
	cuttled release -config /etc/cuttle/cuttled.toml
fi
exit 0
