# Plain `make` lists the verbs. NODES=2, MINSKY_DATA=DIR or URL and ARGS="--epochs 1" go on the same line.
.DEFAULT_GOAL := help
.PHONY: help demo cluster fault down shell workshop workshop-end test test-all lint clean venv
PYTHON ?= python3
PATH := $(CURDIR)/.venv/bin:$(PATH)
export LC_ALL := C.UTF-8
MINSKY := .venv/bin/python -m minsky.cluster
WORKSHOP := .venv/bin/python -m minsky.playbook workshop

help:
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 20

demo: venv  ## from nothing to a network trained on two nodes: accuracy, images/s, plot (ARGS for the lab)
	@$(MINSKY) demo $(ARGS)
cluster: venv  ## boot and provision the virtual cluster; again: repair what has drifted (NODES=1 to 16, CLASS=minsky-p100)
	@$(MINSKY) up
fault: venv  ## break a compute node: a simulated fault (NODE=node2 FAULT=nvlink-down; FAULT=none mends)
	@$(MINSKY) fault
shell: venv  ## log in on the cluster as an ordinary user
	@$(MINSKY) shell
down: venv  ## remove the virtual cluster; images and caches stay
	@$(MINSKY) down
workshop: venv  ## open a class, or change it (ARGS="-e workshop_ends=2027-02-12"; -i INVENTORY: on machines of your own)
	@$(WORKSHOP) $(ARGS)
workshop-end: venv  ## close it: jobs are cancelled and accounts removed, homes kept for root
	@$(WORKSHOP) -e workshop_state=absent $(ARGS)
test: lint  ## lint, then all tests; boots the cluster if none runs (PYTEST_ARGS="-k munge")
	@pytest $(PYTEST_ARGS)
test-all: lint  ## all tests, the long ones too: CUDA images, builds without a network, builds twice (an hour and more)
	@pytest --long $(PYTEST_ARGS)
lint: venv  ## what a change must pass before anything runs: ruff, mypy, shellcheck, ansible-lint
	@ruff check --quiet && ruff format --check --quiet
	@mypy src jobs/labs/labkit playbooks/filter_plugins
	@git ls-files -co --exclude-standard ':!*.md' ':!*.py' | xargs grep -slE '^#!.*sh$$|^# shellcheck shell=' | xargs shellcheck -x
	@ansible-lint -q playbooks
clean: venv  ## down, and remove this project's images, caches and .minsky too
	@$(MINSKY) clean

venv:
	@PYTHONPATH=src $(PYTHON) -m minsky.bootstrap
