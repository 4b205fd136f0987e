# One environment, .venv, for serving and for testing. EXTRA chooses what the server runs on: cpu, gpu or gpu-faiss.
PYTHON ?= python3
EXTRA ?= cpu
ARGS ?=
INSTALL = .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
DISTRIBUTION = pyproject.toml constraints.txt

.PHONY: help serve cluster demo test check bench abuse clean

help:  ## Show this list.
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-7s  %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo "  Variables: PYTHON=$(PYTHON) EXTRA=$(EXTRA) ARGS='options of the command'"

serve: .venv/.installed-$(EXTRA)  ## Serve the bundled recognizer; ARGS='--profile strict'.
	.venv/bin/cloneguard serve $(ARGS)

cluster: .venv/.installed-test  ## Two replicas, their Redis and nginx in front, on port 8000; Ctrl-C ends them all.
	PATH="$(CURDIR)/.venv/bin:$$PATH" deploy/cluster.sh $(ARGS)

demo: .venv/.installed-demo-$(EXTRA)  ## Let thieves clone it, without defences and with them: a table and reports/demo/report.html.
	.venv/bin/cloneguard demo $(ARGS)

test: .venv/.installed-test  ## Run the tests of the server and of the attacker client.
	.venv/bin/python -m pytest $(ARGS)

check: .venv/.installed-test  ## Lint, types, import contracts.
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy app defenses models attacker_client/src tests benchmarks
	.venv/bin/lint-imports

bench: .venv/.installed-test  ## Measure the server beside the plain service that most people write.
	.venv/bin/python -m benchmarks.serving $(ARGS)

abuse: .venv/.installed-test  ## Faults, abuse and bad input at full length (half an hour); writes docs/abuse.md.
	CLONEGUARD_ABUSE=full .venv/bin/python -m pytest -m abuse $(or $(ARGS),tests/abuse)

clean:  ## Remove the environment, builds and caches; state/ stays.
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .schemathesis

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	|| { echo "Cloneguard needs Python 3.11 or newer, and '$(PYTHON)' is not: name one with make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

.venv/.installed-test: $(DISTRIBUTION) attacker_client/pyproject.toml | .venv/bin/python
	$(INSTALL) -e '.[cpu,train,test]' -e ./attacker_client
	@touch .venv/.installed-demo-cpu
	@touch $@ .venv/.installed-cpu

.venv/.installed-demo-%: $(DISTRIBUTION) attacker_client/pyproject.toml | .venv/bin/python
	$(INSTALL) -e '.[$*,train]' -e ./attacker_client
	@touch $@ .venv/.installed-$*

.venv/.installed-%: $(DISTRIBUTION) | .venv/bin/python
	$(INSTALL) -e '.[$*]'
	@touch $@
