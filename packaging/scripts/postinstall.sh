#!/bin/sh
# After unpacking: user, folders, units. It starts nothing that captures and
# touches nothing of the network. An upgrade restarts a daemon that runs, closed.
first=no
case "${1:-}" in
configure) [ -n "${2:-}" ] || first=yes ;; # dpkg gives the version it replaces
1) first=yes ;;                            # rpm counts
[0-9]*.*) [ -n "${2:-}" ] || first=yes ;; # pacman gives the version, and the old one
esac
systemd-sysusers cuttle.conf
systemd-tmpfiles --create cuttle.conf
# What root has written while the package was removed belongs to the daemon.
chown -R cuttle:cuttle /var/lib/cuttle
if [ "$first" = yes ]; then
	systemctl preset cuttle-guard.service cuttle-resolver.socket cuttled.service || true
fi
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
	systemctl start cuttle-resolver.socket || true
	systemctl try-restart cuttled.service || true
fi
