# The work is done by the programs named here; each of them can be called by hand as well.
.DEFAULT_GOAL := help
.PHONY: help dev lint type test vm check demo bench soak completions deb rpm
BIN := .venv/bin

help: ## list the targets
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/make \1 = \2/p' Makefile | while IFS='=' read -r name text; do printf '%-18s%s\n' "$$name" "$$text"; done
dev: .venv/ready ## make .venv: reberth, editable, with the tools to work on it
lint: dev ## ruff: rules and format
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
type: dev ## mypy, strict
	$(BIN)/mypy
test: lint type ## lint, types, and all tests but most of make vm; as root also the live ones, in a lab and in virtual nodes
	scripts/install-needs test && $(BIN)/pytest -m "not vm or sample"
vm: dev ## the tests in virtual nodes with kernels of their own (root, QEMU; emulated more than half an hour)
	scripts/install-needs lab && scripts/install-needs vm && $(BIN)/pytest tests/vm
check: lint type ## lint, types and the quick tests, which need neither root nor a lab
	$(BIN)/pytest tests/unit tests/contract tests/cli
demo: ## build the lab once and move a Redis under load from node1 to node2 (root or sudo)
	scripts/demo
bench: dev ## measure downtime and total time against plain scripts and lxc move, and the modes against each other, in a lab (root)
	scripts/install-needs lab && $(BIN)/python tests/bench/bench.py && for part in modes policies lxd start; do $(BIN)/python tests/bench/$$part.py || exit 1; done
soak: dev ## all faults of LXD, 200 hops, 200 random kills a victim, 20 breaks of a post-copy a fault, the whole fault matrix (root; hours: REBERTH_SOAK_HOURS)
	scripts/install-needs lab && REBERTH_LXD_FAULTS=all $(BIN)/pytest -rP tests/live/test_lxd_faults.py && for part in hops kills postcopy churn soak; do $(BIN)/python tests/live/faults/$$part.py || exit 1; done
completions: dev ## write the table of commands and the completion scripts of bash, zsh and fish
	scripts/make-completions
deb: dev ## build the Debian package into dist/, in a Debian 13 root that is made once (root)
	scripts/install-needs lab && $(BIN)/python packaging/build.py deb
rpm: dev ## build the package for Fedora and its source package into dist/, in the same root (root)
	scripts/install-needs lab && $(BIN)/python packaging/build.py rpm

.venv/ready: pyproject.toml scripts/make-venv
	scripts/make-venv .venv
