# The commands people type. What they do stands in the scripts they call; cargo does the building.

.PHONY: help demo check test matrix coverage lint setup build bench nbdkit

# Where `make nbdkit` puts its link.
BINDIR ?= target/release

help:
	@echo 'make demo    attach a Python disk, put ext4 on it, use it, detach'
	@echo 'make check   format, clippy, and the tests that need neither devices nor servers'
	@echo 'make test    all tests on this kernel, and a few on a packaged kernel in a virtual machine'
	@echo 'make matrix  what depends on a kernel, on two packaged kernels; FULL=1 for all amounts of work'
	@echo 'make coverage  which lines the native tests run, a figure for each folder'
	@echo 'make lint    formatting, clippy, rustdoc, licences'
	@echo 'make bench   compare with other ways to serve a disk; options in BENCH, such as BENCH=--help'
	@echo 'make nbdkit  a link by the name of nbdkit to what make build built; BINDIR=/usr/local/bin'
	@echo 'make build   target/release/pydisk'
	@echo 'make setup   install what this machine lacks for all of these'

demo:
	@tests/tools/setup demo
	cargo build --release
	@tests/demo.sh target/release/pydisk

test:
	@tests/tools/setup test
	@tests/tools/test

check:
	@tests/tools/setup check
	@tests/tools/check

matrix:
	@tests/tools/setup test
	@FULL="$(FULL)" tests/tools/matrix

coverage:
	@tests/tools/setup test
	@tests/tools/coverage

lint:
	@tests/tools/setup check
	@tests/tools/lint

bench:
	@tests/tools/setup bench
	cargo build --release
	@PYTHONPATH=tests python3 -B -m bench $(BENCH)

build:
	@tests/tools/setup build
	cargo build --release

nbdkit: build
	ln -sf "$(CURDIR)/target/release/pydisk" "$(BINDIR)/nbdkit"

setup:
	@tests/tools/setup test
