# Each target makes .venv itself. On a fresh Debian 12 nothing else is needed but git, make and python3.
.PHONY: demo demo-libvirt test lint bench clean

PYTHON := .venv/bin/python
INPUTS := pyproject.toml constraints.txt tools/venv.sh

demo: .venv/.run
	@.venv/bin/adumbra demo

# Makes real VMs at a hypervisor of its own, emulated: as root.
demo-libvirt: .venv/.run
	@tools/debian.sh hypervisor
	@tools/libvirt.sh $(PYTHON)
	@$(PYTHON) -m tools.demo_libvirt

# Slow properties, fuzzing, and the service's long tests are tried with THOROUGH=1 make test. Compiled sources are kept:
# tests start many processes.
test: export PYTHONDONTWRITEBYTECODE =
test: lint
	@tools/debian.sh
	@tools/libvirt.sh $(PYTHON)
	@tools/tests.sh $(PYTHON)

lint: .venv/.dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

bench: .venv/.bench
	@tools/debian.sh
	$(PYTHON) benchmarks/meter.py

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

.venv/.run: $(INPUTS)
	@tools/venv.sh $@ --editable .

.venv/.dev: $(INPUTS)
	@tools/venv.sh $@ --editable . --group test --group lint

.venv/.bench: $(INPUTS)
	@tools/venv.sh $@ --editable . --group bench
