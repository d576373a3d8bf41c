# SPDX-License-Identifier: MIT OR Apache-2.0

CARGO ?= cargo
INSTALL ?= install
PKG_CONFIG ?= pkg-config

# Packages set PREFIX=/usr; the units are then installed unchanged from units/.
PREFIX ?= /usr/local
UNITDIR ?= $(shell $(PKG_CONFIG) --variable=systemdsystemunitdir systemd 2>/dev/null || echo $(PREFIX)/lib/systemd/system)

BINARY = target/release/sysext-oci-proxy
UNITS = sysext-oci-proxy.service sysext-oci-proxy.socket sysext-oci-proxy-update@.service sysext-oci-proxy-update@.timer
CATALOG = $(PREFIX)/lib/systemd/catalog/sysext-oci-proxy.catalog
PRESET = $(PREFIX)/lib/systemd/system-preset/80-sysext-oci-proxy.preset
MANDIR ?= $(PREFIX)/share/man
PAGES = $(notdir $(wildcard man/*.[158]))
BASHDIR ?= $(PREFIX)/share/bash-completion/completions
ZSHDIR ?= $(PREFIX)/share/zsh/site-functions
FISHDIR ?= $(PREFIX)/share/fish/vendor_completions.d

VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
# The time of the files in packages.
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || stat --format=%Y Cargo.toml)

# The program is the same, byte for byte, wherever it is built: the paths of this directory and of cargo's are not in it.
REMAP = $(call remap,$(CURDIR),/build) $(call remap,$(or $(CARGO_HOME),$(HOME)/.cargo),/cargo)
# cargo splits flags at spaces, so a path with spaces in it stays.
remap = $(if $(word 2,$1),,--remap-path-prefix=$1=$2)
# cargo adds these flags to those of its configuration files, but takes no other than RUSTFLAGS where that is set.
build bench soak instructions: export CARGO_BUILD_RUSTFLAGS := $(CARGO_BUILD_RUSTFLAGS) $(REMAP)
ifdef RUSTFLAGS
build bench soak instructions: export RUSTFLAGS := $(RUSTFLAGS) $(REMAP)
endif

# The static program runs on any distribution: TARGET=x86_64-unknown-linux-musl, if that target is installed, does as well.
TARGET = $(shell uname -m)-unknown-linux-gnu
STATIC = target/$(TARGET)/release/sysext-oci-proxy
# glibc loads NSS modules into a static program, too: src/static_nss.c keeps it from that.
IS_GLIBC = $(findstring gnu,$(TARGET))
# As systemd names it.
ARCH = $(patsubst aarch64,arm64,$(patsubst x86_64,x86-64,$(firstword $(subst -, ,$(TARGET)))))
PACKAGE = sysext-oci-proxy-$(VERSION)-$(ARCH)
OUT = target
SYSEXT_ROOT = target/sysext
EXTENSION = $(SYSEXT_ROOT)/usr/lib/extension-release.d/extension-release.sysext-oci-proxy
SYSEXT_UNITS = $(SYSEXT_ROOT)/usr/lib/systemd/system

.PHONY: build static tarball sysext deb check instructions test demo bench soak fuzz deny completions release count install uninstall clean help

# Names what the machine lacks, before anything is compiled.
NEED = @CARGO="$(CARGO)" tests/need

# For targets whose prerequisites compile.
need-%:
	$(NEED) $*

build: ## build the program, in target/release (default)
	$(NEED) build
	$(CARGO) build --release --locked

check: ## check format, lints, documentation, unit and integration tests: no root, no network
	$(NEED) check
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets --locked -- -D warnings
	$(CARGO) clippy --lib --no-default-features --locked -- -D warnings
	RUSTDOCFLAGS=-Dwarnings $(CARGO) doc --lib --no-deps --document-private-items --locked
	$(CARGO) test --locked

instructions: ## count the instructions of parsing, listing and copying, and compare: needs valgrind (WRITE=1 writes the figures)
	$(NEED) build
	@CARGO="$(CARGO)" tests/instructions/run $(if $(WRITE),--write)

test: ## make check, then test with real registries and real systemd: as root on Debian
	$(NEED) test
	$(MAKE) check build static instructions
	tests/e2e/run

demo: ## show an update on this machine: no root, no registry, nothing left behind
	@CARGO="$(CARGO)" tests/demo

bench: build ## measure how fast it lists and streams
	tests/bench/run $(if $(JSON),--json)

soak: build ## test some minutes of faults, kills and idle exits
	tests/soak

fuzz: ## test with random input: FUZZ_SECONDS=60 for each of TARGETS=
	$(NEED) fuzz
	$(CARGO) fuzz --version >/dev/null 2>&1 || $(CARGO) install cargo-fuzz --locked
	CARGO=$(CARGO) tests/fuzz/run $(TARGETS)

deny: ## check licences, sources and advisories of the dependencies, by deny.toml: needs a network
	$(CARGO) deny --version >/dev/null 2>&1 || $(CARGO) install cargo-deny --locked
	$(CARGO) deny --locked check

release: ## build packages, source and checksums of the version in Cargo.toml, in target/release-VERSION
	docs/packaging/release

# Builds only what is not there: `make && sudo make install` needs no cargo for root.
target/release/sysext-oci-proxy:
	$(MAKE) build

completions: ## write man/completions again, after a change of the command line
	COMPLETIONS=write $(CARGO) test --locked --test it completions::

count: ## count lines of the program, without unit tests, blank lines and comments
	@find src -name '*.rs' ! -name '*tests.rs' -exec awk 'FNR == 1 { tests = held = 0 } \
		held && /^(pub )?mod [a-z_]+ \{/ { tests = 1 } { held = /^#\[cfg\(test\)\]/ } \
		!tests && !/^[[:space:]]*(\/\/.*)?$$/ && !held { n++ } END { print n }' {} +

install: $(BINARY) ## install program, units, manual pages and completions (PREFIX=/usr/local, UNITDIR=, DESTDIR=)
	$(INSTALL) -D -m 755 $(BINARY) $(DESTDIR)$(PREFIX)/bin/sysext-oci-proxy
	$(INSTALL) -d $(DESTDIR)$(UNITDIR)
	for unit in $(UNITS); do \
		sed 's,/usr/bin/,$(PREFIX)/bin/,' units/$$unit >$(DESTDIR)$(UNITDIR)/$$unit && \
		chmod 644 $(DESTDIR)$(UNITDIR)/$$unit || exit 1; \
	done
	$(INSTALL) -D -m 644 units/sysext-oci-proxy.catalog $(DESTDIR)$(CATALOG)
	$(INSTALL) -D -m 644 units/sysext-oci-proxy.preset $(DESTDIR)$(PRESET)
	for page in $(PAGES); do \
		$(INSTALL) -D -m 644 -t $(DESTDIR)$(MANDIR)/man$${page##*.} man/$$page || exit 1; \
	done
	$(INSTALL) -D -m 644 man/completions/sysext-oci-proxy.bash $(DESTDIR)$(BASHDIR)/sysext-oci-proxy
	$(INSTALL) -D -m 644 -t $(DESTDIR)$(ZSHDIR) man/completions/_sysext-oci-proxy
	$(INSTALL) -D -m 644 -t $(DESTDIR)$(FISHDIR) man/completions/sysext-oci-proxy.fish

deb: need-deb build ## build a Debian package, in OUT (VERSION=, OUT=target)
	@VERSION='$(VERSION)' SOURCE_DATE_EPOCH='$(SOURCE_DATE_EPOCH)' docs/packaging/debian/build '$(OUT)'

# RUSTFLAGS has precedence over the flags of configuration files, which could leave out that the program is to be static.
static: ## build the program without shared libraries, in target/TARGET/release (TARGET=)
	$(NEED) static
	mkdir -p target
	$(if $(IS_GLIBC),$(CC) -O2 -c src/static_nss.c -o target/static_nss.o)
	RUSTFLAGS='$(RUSTFLAGS) $(REMAP) -C target-feature=+crt-static' $(CARGO) rustc --release --locked --target $(TARGET) \
		--bin sysext-oci-proxy -- $(if $(IS_GLIBC),-C link-arg=target/static_nss.o)

$(STATIC):
	$(MAKE) static

tarball: $(STATIC) ## pack the static program and its units, for /usr/local (OUT=target)
	rm -rf target/tarball
	$(MAKE) --silent install BINARY=$(STATIC) DESTDIR=target/tarball PREFIX=/usr/local UNITDIR=/usr/local/lib/systemd/system
	$(INSTALL) -D -m 644 -t target/tarball/usr/local/share/doc/sysext-oci-proxy README.md LICENSE*
	tar --create --directory=target/tarball/usr/local --transform='s,^\.,$(PACKAGE)-linux,' --sort=name --format=ustar \
		--owner=0 --group=0 --numeric-owner --mode=go=rX --mtime=@$(SOURCE_DATE_EPOCH) . | gzip --no-name --best >$(OUT)/$(PACKAGE)-linux.tar.gz

sysext: need-sysext $(STATIC) ## build a system extension with the static program, for any distribution (VERSION=, OUT=target)
	rm -rf $(SYSEXT_ROOT)
	$(MAKE) --silent install BINARY=$(STATIC) DESTDIR=$(SYSEXT_ROOT) PREFIX=/usr UNITDIR=/usr/lib/systemd/system
	sed -i 's/^WantedBy=timers.target$$/UpheldBy=timers.target/' $(SYSEXT_UNITS)/sysext-oci-proxy-update@.timer
	cat units/sysext/socket.conf >>$(SYSEXT_UNITS)/sysext-oci-proxy.socket
	$(INSTALL) -D -m 644 units/sysext/sockets.target.conf $(SYSEXT_UNITS)/sockets.target.d/10-sysext-oci-proxy.conf
	$(INSTALL) -D -m 644 units/sysext/systemd-sysext.conf $(SYSEXT_UNITS)/systemd-sysext.service.d/50-sysext-oci-proxy.conf
	$(INSTALL) -d $(dir $(EXTENSION))
	sed 's/@VERSION@/$(VERSION)/; s/@ARCHITECTURE@/$(ARCH)/' units/sysext/extension-release >$(EXTENSION)
	chmod -R u=rwX,go=rX $(SYSEXT_ROOT)
	rm -f $(OUT)/$(PACKAGE).raw
	mkfs.erofs --quiet -zlz4hc,12 -T$(SOURCE_DATE_EPOCH) --all-root --file-contexts=units/sysext/file_contexts \
		-U$$(echo $(PACKAGE) | sha256sum | sed 's/^\(.\{8\}\)\(.\{4\}\).\(.\{3\}\).\(.\{3\}\)\(.\{12\}\).*/\1-\2-4\3-8\4-\5/') \
		$(OUT)/$(PACKAGE).raw $(SYSEXT_ROOT)

uninstall: ## remove the files of make install
	rm -f $(DESTDIR)$(PREFIX)/bin/sysext-oci-proxy $(DESTDIR)$(CATALOG) $(DESTDIR)$(PRESET) $(addprefix $(DESTDIR)$(UNITDIR)/,$(UNITS)) \
		$(foreach page,$(PAGES),$(DESTDIR)$(MANDIR)/man$(subst .,,$(suffix $(page)))/$(page)) \
		$(DESTDIR)$(BASHDIR)/sysext-oci-proxy $(DESTDIR)$(ZSHDIR)/_sysext-oci-proxy \
		$(DESTDIR)$(FISHDIR)/sysext-oci-proxy.fish

clean: ## remove everything that was built
	$(CARGO) clean

help: ## show this list
	@sed -n 's/^\([a-z]*\):[^#]*## /\1\t/p' Makefile | expand -t 12
