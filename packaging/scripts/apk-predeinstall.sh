#!/bin/sh
# Alpine: ends the daemon and undoes what it has in force.
rc-service --ifstarted cuttled stop
if [ -s /var/lib/cuttle/hostnet.journal ] || [ -e /var/lib/cuttle/lock ]; then
	cuttled release -config /etc/cuttle/cuttled.toml
fi
true
