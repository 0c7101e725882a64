#!/bin/sh
# Puts the programs of other VPNs into the folder $1, for `cuttle-lab bench --peers`. Go programs come through the Go module
# proxy, pinned; tor through apt, unpacked beside them: nothing is installed on the machine. What cannot be had is named at the end.
set -u
SINGBOX=github.com/sagernet/sing-box/cmd/sing-box@v1.14.1
WIREGUARD=golang.zx2c4.com/wireguard@v0.0.0-20260522210424-ecfc5a8d5446

mkdir -p "$1" && cd "$1" || exit 1
bin=$(pwd)
missing=

# have NAME VERSION: NAME is there and was built from VERSION
have() { [ -x "$1" ] && [ "$(cat "$1.version" 2>/dev/null)" = "$2" ]; }

# goget NAME PACKAGE@VERSION FLAGS...
goget() {
	name=$1 what=$2
	shift 2
	have "$name" "$what" && return
	echo "peers: $name from $what"
	if GOFLAGS= GOBIN="$bin" CGO_ENABLED=0 go install -trimpath "$@" "$what"; then
		echo "$what" >"$name.version"
	else
		rm -f "$name" "$name.version"
		missing="$missing $name"
	fi
}

goget sing-box "$SINGBOX" -tags with_gvisor
goget wireguard "$WIREGUARD"

# tor's package and the library it needs that not every machine has.
if ! [ -x tor ]; then
	echo "peers: tor from Debian"
	rm -rf tor-root && mkdir tor-root
	download() { (cd tor-root && apt-get download -q tor libevent-2.1-7 >/dev/null 2>&1); }
	if command -v apt-get >/dev/null && { download || { apt-get update -q >/dev/null 2>&1 && download; }; } &&
		for deb in tor-root/*.deb; do dpkg -x "$deb" tor-root && rm "$deb" || exit 1; done; then
		for program in tor tor-gencert; do
			cat >"$program" <<-END
				#!/bin/sh
				root=\$(dirname "\$0")/tor-root
				LD_LIBRARY_PATH=\$(echo "\$root"/usr/lib/*-linux-gnu) exec "\$root/usr/bin/$program" "\$@"
			END
			chmod +x "$program"
		done
		./tor --version >/dev/null 2>&1 || rm -f tor tor-gencert
	fi
	[ -x tor ] || missing="$missing tor"
fi

if [ -n "$missing" ]; then
	echo "peers: not to be had here:$missing; their rows will say so" >&2
fi
exit 0
