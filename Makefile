# Targets are what CI runs and what people type; `make help` lists them.
export CGO_ENABLED ?= 0
export PATH := $(PATH):/usr/local/go/bin
GO      ?= go
BIN     := bin
LINT    := $(BIN)/golangci-lint
LINTVER := v2.15.0
USER_COMMANDS := cuttled cuttle
CHAIN   := internal/lab/chain
CHAINTEST := billing/evm/chaintest
FUZZTIME ?= 60s
# What fetches is tried three times.
thrice = $(1) || { sleep 10; $(1); } || { sleep 30; $(1); }

.DEFAULT_GOAL := help
.PHONY: help build contract chain demo test test-unit test-root test-chain test-package debs test-install test-systemd check vet lint fuzz race cross bench peers bench-peers package tidy-check

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | awk -F'\t' '{printf "%-13s %s\n", $$1, $$2}'

build: ## build cuttled, cuttle and cuttle-lab into bin/
	@mkdir -p $(BIN)
	$(GO) build -trimpath -o $(BIN)/ ./cmd/...

chain: ## build the lab's development chain into bin/ (heavy, a module of its own)
	@mkdir -p $(BIN)
	cd $(CHAIN) && $(GO) build -trimpath -o $(abspath $(BIN))/cuttle-lab-chain .

demo: ## the whole network on this machine: needs Linux, root, /dev/net/tun
	@sh internal/lab/require.sh
	@$(MAKE) --no-print-directory build chain
	$(BIN)/cuttle-lab demo

test: test-unit test-chain test-root ## every test; needs root and Linux for the namespace tests

test-unit: ## the tests that need no root
	$(GO) test -count=1 ./...

test-root: build chain ## the namespace tests; as root
	@sh internal/lab/require.sh
	CUTTLE_BIN=$(abspath $(BIN)) $(GO) test -count=1 -timeout 20m -p 1 -tags netns -run '$(NETNS_RUN)' $(NETNS_PACKAGES)

NETNS_RUN := .
NETNS_PACKAGES = $$(grep -rlE '^//go:build .*netns' --include='*_test.go' . | grep -v '/chain' | xargs -n1 dirname | sort -u)

test-chain: ## the tests against a real in-process chain
	cd $(CHAINTEST) && $(GO) test -count=1 -timeout 20m ./...
	cd $(CHAIN) && $(GO) test -count=1 ./...

check: vet lint ## static checks, formatting, house rules
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); echo 'run gofmt -w on these'; exit 1; }
	$(GO) test -count=1 ./internal/archtest/

contract: ## compile the contracts again (needs npm) and compare with what is committed
	@sh billing/contract/generate.sh -check

vet:
	$(GO) vet ./...
	$(GO) vet -tags netns ./...
	$(GO) vet -tags systemd ./internal/lab/boot

$(LINT):
	@mkdir -p $(BIN)
	$(call thrice,GOBIN=$(abspath $(BIN)) $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINTVER))

lint: $(LINT) ## golangci-lint, pinned
	@test "$$($(LINT) version --short 2>/dev/null)" = "$(LINTVER:v%=%)" || { rm -f $(LINT); $(MAKE) --no-print-directory $(LINT); }
	$(LINT) run --build-tags netns ./...

cross: ## compile for every supported system
	@sh internal/archtest/cross.sh

fuzz: ## fuzz every target for FUZZTIME (60s)
	@sh internal/archtest/fuzz.sh $(FUZZTIME)

race: ## the tests that need no root, with the race detector
	CGO_ENABLED=1 $(GO) test -race -count=1 ./...

bench: ## microbenchmarks; `bin/cuttle-lab bench` as root measures the whole network
	$(GO) test -run '^$$' -bench . -benchmem ./relay/... ./obfs/... ./billing/... ./stack/... ./tun/...

peers: ## other VPNs to measure beside Cuttle, into bin/peers (heavy, once)
	@sh internal/lab/peer/install.sh $(BIN)/peers
	CGO_ENABLED=0 $(GO) test -c -trimpath -tags netns -o $(BIN)/peers/stack.test ./stack

BENCH_FLAGS ?= --into docs/performance.md
bench-peers: build peers ## measure Cuttle and other VPNs side by side, as root; BENCH_FLAGS="--rows kernel,cuttle-plain" for some
	@sh internal/lab/require.sh
	$(BIN)/cuttle-lab bench --slow --peers $(BIN)/peers $(BENCH_FLAGS)

PACKAGES := $(BIN)/packages
NFPM     := $(BIN)/nfpm
NFPMVER  := v2.44.0
$(NFPM):
	@mkdir -p $(BIN)
	$(call thrice,GOBIN=$(abspath $(BIN)) $(GO) install github.com/goreleaser/nfpm/v2/cmd/nfpm@$(NFPMVER))

package: $(NFPM) ## deb, rpm, apk, ipk and archlinux packages for every processor into bin/packages
	rm -rf $(PACKAGES)
	NFPM=$(NFPM) sh packaging/build.sh $(PACKAGES)

test-package: package ## looks into the packages, and builds them again elsewhere
	@NFPM=$(abspath $(NFPM)) sh packaging/test.sh $(PACKAGES)

# One version and the next, to upgrade, and a Debian tree to do it in.
DEBS := $(abspath $(BIN))/debs
DEB   = $(DEBS)/cuttle_$(1)_$$($(GO) env GOARCH).deb
DEB_BUILD := FORMATS=deb VERSIONS="0.0.1 0.0.2" DEB_COMPRESSION=gzip
TREE  := $(abspath .cache)/debian.tar
$(TREE):
	sh internal/lab/boot/tree.sh $@

debs: $(NFPM)
	rm -rf $(DEBS)
	NFPM=$(NFPM) $(DEB_BUILD) sh packaging/build.sh $(DEBS) $$($(GO) env GOARCH)

test-install: debs $(TREE) ## the deb in a clean Debian tree: built twice, installed, upgraded, removed, purged; as root, needs mmdebstrap
	NFPM=$(abspath $(NFPM)) $(DEB_BUILD) sh packaging/again.sh $(DEBS) $$($(GO) env GOARCH)
	sh packaging/test-install.sh $(TREE) $(call DEB,0.0.1) $(call DEB,0.0.2)

test-systemd: build debs $(TREE) ## the service as it is installed: a Debian tree that boots; as root, needs mmdebstrap and systemd-nspawn
	@sh internal/lab/require.sh
	CUTTLE_BIN=$(abspath $(BIN)) CUTTLE_TREE=$(TREE) CUTTLE_DEB=$(call DEB,0.0.1) CUTTLE_DEB_NEXT=$(call DEB,0.0.2) \
		$(GO) test -count=1 -timeout 30m -v -tags systemd ./internal/lab/boot
