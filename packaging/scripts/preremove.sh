#!/bin/sh
# Before the files go, and not on upgrades: ends the daemon and undoes what it
# has in force, the lock too, since nothing would be left to open the machine.
case "${1:-}" in
upgrade | failed-upgrade | [1-9]) going=no ;; # rpm counts what will be left
*) going=yes ;;
esac
if [ "$going" = yes ]; then
	if [ -d /run/systemd/system ]; then
		systemctl stop cuttled.service cuttle-guard.service || true
	fi
	if [ -s /var/lib/cuttle/hostnet.journal ] || [ -e /var/lib/cuttle/lock ]; then
		cuttled release -config /etc/cuttle/cuttled.toml || true
	fi
	if [ -d /run/systemd/system ]; then
		systemctl stop cuttle-resolver.socket || true
	fi
	systemctl disable cuttled.service cuttle-guard.service cuttle-resolver.socket || true
fi
