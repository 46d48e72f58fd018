# The work is done by the programs named here; each of them can be called by hand as well.
.DEFAULT_GOAL := help
.PHONY: help dev lint type test vm check demo bench soak mutants completions deb rpm reproducible
BIN := .venv/bin
# What needs neither root nor a node, and the rest. Each worker of the rest has a lab (tests/live/livekit/shards.py).
QUICK := -n 2 --dist loadgroup --no-loadscope-reorder tests/unit tests/contract tests/cli tests/goldens
NODES := -n 2 --dist loadgroup --no-loadscope-reorder tests/live tests/shells tests/packaging

help: ## list the targets
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/make \1 = \2/p' Makefile | while IFS='=' read -r name text; do printf '%-18s%s\n' "$$name" "$$text"; done
dev: .venv/ready ## make .venv: reberth, editable, with the tools to work on it
lint: dev ## ruff: rules and format; plain words in docstrings
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/python tests/english.py
type: dev ## mypy, strict
	$(BIN)/mypy
test: lint type ## lint, types, quick tests, as root a sample of make vm, then the live ones in two labs side by side
	scripts/install-needs test && $(BIN)/pytest $(QUICK) && $(BIN)/pytest tests/vm -m sample && $(BIN)/pytest $(NODES) -m "not reproducible"
vm: dev ## the tests in virtual nodes with kernels of their own (root, QEMU; emulated more than half an hour)
	scripts/install-needs lab && scripts/install-needs vm && $(BIN)/pytest tests/vm
check: lint type ## lint, types and the quick tests, which need neither root nor a lab
	$(BIN)/pytest $(QUICK)
demo: ## build the lab once and move a Redis under load from node1 to node2 (root or sudo)
	scripts/demo
bench: dev ## measure downtime and total time against plain scripts and lxc move, and the modes against each other, in a lab (root)
	scripts/install-needs lab && $(BIN)/python tests/bench/bench.py && for part in modes policies lxd start; do $(BIN)/python tests/bench/$$part.py || exit 1; done
soak: dev ## all faults of LXD, 20 turns there and back, all ways to log in, 200 hops, 200 random kills a victim, 20 breaks of a post-copy a fault, 28 power cuts, 60 trees that fork and free memory all the time, 20 moves of each kind of workload that starts programs all the time, the whole fault matrix, two faults at once (root; hours: REBERTH_SOAK_HOURS)
	scripts/install-needs lab && REBERTH_TURNS=20 REBERTH_LOGINS=all REBERTH_LXD_FAULTS=all $(BIN)/pytest -rP tests/live/test_there_and_back.py tests/live/test_logins.py tests/live/test_lxd_faults.py && for part in churn forks hops kills postcopy power soak pairs; do $(BIN)/python tests/live/faults/$$part.py || exit 1; done
mutants: dev ## plant small faults into the protocol and count those that no quick test notices (hours; the copy it works on: REBERTH_MUTANTS)
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[mutants]' && $(BIN)/python tests/mutants/run.py
completions: dev ## write the table of commands and the completion scripts of bash, zsh and fish
	scripts/make-completions
deb: dev ## build the Debian package into dist/, in a Debian 13 root that is made once (root)
	scripts/install-needs lab && $(BIN)/python packaging/build.py deb
rpm: dev ## build the package for Fedora and its source package into dist/, in the same root (root)
	scripts/install-needs lab && $(BIN)/python packaging/build.py rpm
reproducible: dev ## build both packages twice and compare their bytes (root)
	scripts/install-needs lab && $(BIN)/pytest -m reproducible tests/packaging

.venv/ready: pyproject.toml scripts/make-venv
	scripts/make-venv .venv
