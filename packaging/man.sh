#!/bin/sh
# Writes the manual pages from what the commands say of themselves: man.sh CUTTLED CUTTLE FOLDER.
# One source: the help texts and the commented default configuration.
set -eu
cuttled=$1 cuttle=$2 out=$3
mkdir -p "$out"

# escape shows text as it is: no line may begin a request, no backslash an escape.
escape() { sed -e 's/\\/\\e/g' -e 's/-/\\-/g' -e "s/^\([.']\)/\\\\\&\1/"; }

page() { # name section title, then the sections on standard input
	printf '.TH %s %s "" Cuttle "Cuttle"\n.SH NAME\n%s \\- %s\n' "$(echo "$1" | tr '[:lower:]' '[:upper:]')" "$2" "$1" "$3"
	cat
}

verbatim() { # title; text on standard input
	printf '.SH %s\n.nf\n' "$1"
	escape
	printf '.fi\n'
}

{
	"$cuttle" manual | verbatim DESCRIPTION
	printf '.SH SEE ALSO\n.BR cuttled (8),\n.BR cuttled.toml (5)\n'
} | page cuttle 1 'speak to the Cuttle daemon' >"$out/cuttle.1"
{
	"$cuttled" help | verbatim SYNOPSIS
	cat <<-'END'
		.SH SIGNALS
		.TP
		SIGTERM, SIGINT
		end, and open the machine unless the lock is on
		.TP
		SIGUSR1
		end, and leave the machine closed: for restarts and upgrades
		.SH FILES
		.TP
		/etc/cuttle/cuttled.toml
		the configuration
		.TP
		/var/lib/cuttle
		keys, ledger, and what was changed on the host
		.TP
		/run/cuttle/control.sock
		where cuttle(1) speaks to it
		.SH SEE ALSO
		.BR cuttle (1),
		.BR cuttled.toml (5)
	END
} | page cuttled 8 'the Cuttle daemon: client, relay and exit' >"$out/cuttled.8"
{
	"$cuttled" default-config | verbatim DESCRIPTION
	printf '.SH SEE ALSO\n.BR cuttled (8)\n'
} | page cuttled.toml 5 "configuration of the Cuttle daemon" >"$out/cuttled.toml.5"
