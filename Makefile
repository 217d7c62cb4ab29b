# make demo     a real node with real traffic, in namespaces on this machine
# make test     everything: style, types, units, BPF, namespaces, and Debian's kernels in VMs
# make bench    jetplane beside its rivals
# make bench-attacks  what subscribers notice of floods, and what a blocklist costs
# make bench-vm the same with the kernel's WireGuard in front, counted in instructions, in a VM
# make fuzz     a million mutated packets through the programs, on every CPU
# Each sets the machine up first (deploy/setup); that takes a second when nothing is missing.

BIN := .venv/bin
# Namespaces, BPF and WireGuard need root; what root wrote into the tree, its user could not remove.
AS_ROOT := $(if $(filter 0,$(shell id -u)),,sudo --preserve-env=CI,JETPLANE_REQUIRE,XDG_CACHE_HOME env \
	PYTHONDONTWRITEBYTECODE=1 HYPOTHESIS_STORAGE_DIRECTORY=/root/.cache/jetplane/hypothesis)
C_SOURCES := $(wildcard ebpf/*.[ch] tests/*/*.[ch] bench/*.[ch])

.PHONY: help setup demo test test-fast fuzz lint bench bench-quick bench-attacks bench-vm clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

setup:
	@deploy/setup

demo: setup
	@$(AS_ROOT) $(BIN)/jetplane demo

# Two workers: the guests of tests/vm keep one of them, and half a machine, until they are off. Nodes start some hundred
# times, and in the guests Python compiles twenty times as slowly: what can be is compiled before, or kept.
test: setup lint
	@$(BIN)/python -m compileall -q jetplane tests
	@$(or $(AS_ROOT),env --unset=PYTHONDONTWRITEBYTECODE) $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -p no:cacheprovider tests

# Within a minute: as root two tables of packets too; a user is not asked for a password.
TABLES := $(addprefix tests/bpf/test_,nat_sessions.py every_reason.py)
test-fast: setup lint
	@$(BIN)/pytest -q tests/unit tests/host $(if $(AS_ROOT),,$(TABLES))

# All four speak, then the worst counts.
lint: setup
	@status=0; \
	$(BIN)/ruff check --quiet . || status=1; \
	$(BIN)/ruff format --quiet --check . || status=1; \
	$(BIN)/mypy --strict --no-error-summary jetplane bench || status=1; \
	$(BIN)/clang-format --dry-run --Werror $(C_SOURCES) || status=1; \
	exit $$status

fuzz: setup
	@$(AS_ROOT) JETPLANE_FUZZ_PACKETS=1000000 $(BIN)/pytest -q -s -p no:cacheprovider --timeout 3600 tests/bpf/test_nat_fuzz.py

bench: setup
	@$(AS_ROOT) $(BIN)/python -m bench

bench-quick: setup
	@$(AS_ROOT) $(BIN)/python -m bench --quick

bench-attacks: setup
	@$(AS_ROOT) $(BIN)/python -m bench.attacks

bench-vm: setup
	@$(AS_ROOT) $(BIN)/python -m bench --vm

clean:
	rm -rf .venv build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find jetplane tests bench -name __pycache__ -prune -exec $(AS_ROOT) rm -rf {} +
