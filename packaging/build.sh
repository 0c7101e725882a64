#!/bin/sh
# Builds every package into a folder: build.sh OUT [ARCH...], ARCH of amd64, arm64,
# armv7, mipsle. deb, rpm, apk, ipk and archlinux; for mipsle the ipk only. Two runs
# of one commit give identical bytes. NFPM names nfpm (make package fetches it),
# VERSION the version, FORMATS fewer formats, VERSIONS versions to write on the same.
set -eu
cd "$(dirname "$0")/.."
out=$1
shift
[ $# -gt 0 ] || set -- amd64 arm64 armv7 mipsle
nfpm=${NFPM:-bin/nfpm}
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 1767225600)}
version=${VERSION:-0.1.0~git$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y%m%d%H%M%S)}
export SOURCE_DATE_EPOCH CGO_ENABLED=0
mkdir -p "$out"
out=$(cd "$out" && pwd)
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT

build() { # folder package; the environment says for what
	go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$version" -o "$stage/$1/" "$2"
}

# The commands of this machine write their own texts.
(unset GOOS GOARCH GOARM; build host ./cmd/cuttled; build host ./cmd/cuttle)
sh packaging/man.sh "$stage/host/cuttled" "$stage/host/cuttle" "$stage/man"
for page in "$stage"/man/*; do gzip -9n "$page"; done
sh packaging/completions.sh "$stage/host/cuttle" "$stage/completions"
"$stage/host/cuttled" default-config >"$stage/plain.toml"
# Where there is a group for it, its members may type `cuttle up`.
sed 's/^control_group = ""/control_group = "cuttle-admin"/' "$stage/plain.toml" >"$stage/grouped.toml"
# OpenWrt keeps nothing in /var and has no groups to speak of.
sed 's,^state = "/var/lib/cuttle",state = "/etc/cuttle/state",' "$stage/plain.toml" >"$stage/openwrt.toml"
# An apk keeps the times of its scripts.
mkdir "$stage/scripts"
for script in packaging/scripts/*.sh; do
	cp "$script" "$stage/scripts/"
	touch -d "@$SOURCE_DATE_EPOCH" "$stage/scripts/${script##*/}"
done
grep -q cuttle-admin "$stage/grouped.toml" && grep -q /etc/cuttle/state "$stage/openwrt.toml"

file() { # source target [mode [type]]
	printf '  - {src: "%s", dst: "%s", type: "%s", file_info: {mode: %s}}\n' "$1" "$2" "${4:-}" "${3:-0644}"
}

systemd_files() {
	file "$stage/grouped.toml" /etc/cuttle/cuttled.toml 0640 'config|noreplace'
	for unit in cuttled.service cuttle-guard.service cuttle-resolver.socket cuttle-resolver@.service; do
		file "systemd/$unit" "/usr/lib/systemd/system/$unit"
	done
	file systemd/preset.conf /usr/lib/systemd/system-preset/90-cuttle.preset
	file systemd/router.conf /usr/share/cuttle/router.conf
	file systemd/sysusers.conf /usr/lib/sysusers.d/cuttle.conf
	file systemd/tmpfiles.conf /usr/lib/tmpfiles.d/cuttle.conf
	file systemd/networkd.conf /usr/lib/systemd/networkd.conf.d/10-cuttle.conf
	file systemd/networkd-tun.network /usr/lib/systemd/network/10-cuttle.network
	file systemd/networkmanager.conf /usr/lib/NetworkManager/conf.d/10-cuttle.conf
	file systemd/polkit.rules /usr/share/polkit-1/rules.d/50-cuttle.rules
}

config() { # format architecture
	cat <<-END
		name: cuttle
		arch: $2
		platform: linux
		version: "$version"
		version_schema: none
		release: "1"
		section: net
		maintainer: Cuttle <cuttle@localhost>
		description: |-
		  onion VPN for the whole machine
		  All traffic goes through relays, each of which knows its neighbors and nothing
		  else. One daemon is client, relay and exit. Nothing is captured before its
		  configuration says so and its service is enabled.
		deb: {compression: ${DEB_COMPRESSION:-xz}}
		contents:
	END
	file "$stage/$2/cuttled" /usr/bin/cuttled 0755
	file "$stage/$2/cuttle" /usr/bin/cuttle 0755
	if [ "$1" != ipk ]; then # a router has no room for them
		for page in cuttle.1 cuttled.8 cuttled.toml.5; do
			file "$stage/man/$page.gz" "/usr/share/man/man${page##*.}/$page.gz"
		done
		file "$stage/completions/bash" /usr/share/bash-completion/completions/cuttle
		file "$stage/completions/zsh" /usr/share/zsh/site-functions/_cuttle
		file "$stage/completions/fish" /usr/share/fish/vendor_completions.d/cuttle.fish
		for text in README.md docs/*.md docs/guides/*.md; do
			[ ! -e "$text" ] || file "$text" "/usr/share/doc/cuttle/${text#docs/}"
		done
	fi
	case $1 in
	apk)
		file "$stage/grouped.toml" /etc/cuttle/cuttled.toml 0640 'config|noreplace'
		file packaging/init/openrc /etc/init.d/cuttled 0755
		set -- preinstall apk-preinstall.sh preremove apk-predeinstall.sh
		;;
	ipk)
		file "$stage/openwrt.toml" /etc/cuttle/cuttled.toml 0600 'config|noreplace'
		file packaging/init/procd /etc/init.d/cuttled 0755
		echo 'depends: [kmod-tun, kmod-nft-core, kmod-nft-netdev, kmod-nft-socket, kmod-nft-nat]'
		set -- postinstall ipk-postinst.sh preremove ipk-prerm.sh
		;;
	*)
		systemd_files
		[ "$1" != deb ] || echo 'recommends: [polkitd]'
		[ "$1" != archlinux ] || printf 'archlinux: {scripts: {postupgrade: "%s"}}\n' "$stage/scripts/postinstall.sh"
		set -- postinstall postinstall.sh preremove preremove.sh postremove postremove.sh
		;;
	esac
	echo 'scripts:'
	while [ $# -gt 0 ]; do
		printf '  %s: "%s"\n' "$1" "$stage/scripts/$2"
		shift 2
	done
}

for arch; do
	formats=${FORMATS:-deb rpm apk ipk archlinux}
	case $arch in
	amd64 | arm64) export GOARCH="$arch" ;;
	armv7) export GOARCH=arm GOARM=7 ;;
	# Most such routers have no floating point unit. modernc.org/sqlite has no port to it:
	# this daemon has no ledger and refuses billing.mode = "paid".
	mipsle) export GOARCH=mipsle GOMIPS=softfloat; formats=ipk ;;
	*) echo "build.sh: unknown architecture $arch" >&2; exit 2 ;;
	esac
	export GOOS=linux
	name=$arch
	[ "$arch" != armv7 ] || name=arm7
	build "$name" ./cmd/cuttled
	build "$name" ./cmd/cuttle
	for format in $formats; do
		ending=$format
		[ "$format" != archlinux ] || ending=pkg.tar.zst
		for version in ${VERSIONS:-$version}; do
			config "$format" "$name" >"$stage/nfpm.yaml"
			"$nfpm" package --config "$stage/nfpm.yaml" --packager "$format" --target "$out/cuttle_${version}_$arch.$ending" >"$stage/said" ||
				{ cat "$stage/said" >&2; exit 1; } # it says there what is wrong
		done
	done
done
ls -l "$out"
