# "make demo" and "make test" need Python 3.10 or newer and make, nothing else; no environment has to be
# activated.  PYTHON=/path/to/python chooses the interpreter, TESTS="tests/test_x.py -k name" what is run,
# PEERS="--what lock" what is measured of others.

.NOTPARALLEL:
.PHONY: help demo test test-all check fix bench bench-peers soak sensitivity model docs clean

# What an active environment exports would reach into ours.
unexport PYTHONHOME PYTHONPATH VIRTUAL_ENV __PYVENV_LAUNCHER__

environment = @sh tools/environment.sh
bin = .venv/bin

help:
	@echo "make demo      8 processes contend for one lock on a private etcd, and a checker judges"
	@echo "make test      the tests, in plain threads and again under gevent (about 10 minutes)"
	@echo "make test-all  the same on every Python 3.10 to 3.13 found"
	@echo "make check     ruff, mypy --strict, import arrows; make fix mends what ruff can"
	@echo "make bench     benchmarks on a private etcd;  make soak: hours of faults, in parts"
	@echo "make bench-peers  the locks of Go, kazoo, Redis clients and others, beside ours"
	@echo "make sensitivity  breaks each rule on purpose and shows what notices: docs/verification.md"
	@echo "make model     every order of every step of the waitlist's protocol, in small worlds: docs/model"
	@echo "make docs      the manual, into build/docs;  make clean: removes all that was built"

demo:
	$(environment) cli,etcd
	@$(bin)/coordkit demo

test:
	$(environment) test
	@$(bin)/python tools/run_tests.py $(TESTS)

test-all:
	$(environment) test
	@$(bin)/python tools/run_tests.py --all $(TESTS)

check:
	$(environment) test
	@$(bin)/ruff check .
	@$(bin)/mypy
	@$(bin)/python -m pytest -q -p no:cacheprovider tests/test_architecture.py

fix:
	$(environment) test
	@$(bin)/ruff check --fix .

bench:
	$(environment) bench
	@mkdir -p build/bench
	@$(bin)/coordkit bench wire --plot build/bench/wire.svg
	@$(bin)/coordkit bench lock --plot build/bench/lock.svg
	@echo "plots: build/bench/wire.svg and build/bench/lock.svg"

# A peer whose environment cannot be made is named with that reason, and the others are measured.
bench-peers:
	$(environment) bench
	@$(bin)/python -I tools/environment.py .venvs/peers peers
	-@$(bin)/python -I tools/environment.py .venvs/peer-etcd3 peer-etcd3
	@.venvs/peers/bin/python -m benchmarks.peers $(PEERS)

soak:
	$(environment) test
	@$(bin)/python -m coordkit.testing.soak --reports build/soak
	@$(bin)/python tools/run_tests.py --soak $(TESTS)

sensitivity:
	$(environment) test
	@$(bin)/python tools/sensitivity.py --write

model:
	$(environment) test
	@$(bin)/python docs/model/explore.py

docs:
	$(environment) docs
	@$(bin)/python -m sphinx -W -b html docs build/docs

clean:
	rm -rf .venv .venvs build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
