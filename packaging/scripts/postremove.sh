#!/bin/sh
# After the files have gone. State (keys, ledger) goes only when dpkg purges;
# files in /etc/cuttle that the operator has made stay.
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload || true
fi
if [ "${1:-}" = purge ]; then
	rm -rf /var/lib/cuttle /var/lib/cuttle-resolver
	if [ -d /etc/cuttle ]; then
		rmdir --ignore-fail-on-non-empty /etc/cuttle
	fi
	if command -v userdel >/dev/null; then
		userdel cuttle 2>/dev/null || true
		groupdel cuttle-admin 2>/dev/null || true
	fi
fi
