# torchherd. Type `make` for the list of targets.

VERSION := 0.1.0
GO ?= go
PORT ?= 8000

# The C header lies outside the Go package that includes it, where Go's build cache doesn't look; its checksum
# in the flags makes Go rebuild when it changes.
export CGO_CFLAGS := -O2 -g -DTHD_HEADER=$(shell cksum csrc/include/torchherd.h | cut -d ' ' -f 1)
LDFLAGS := -X main.version=$(VERSION)
BENCHSTAT := $(GO) run golang.org/x/perf/cmd/benchstat@v0.0.0-20260908200009-22c9c6c9d4da
GOLANGCI_LINT := $(GO) run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
# Python's packages are in virtual environments in the user's cache, which all checkouts share. Those in build/ add the
# checkout's own tools/.
CACHE := $(or $(TORCHHERD_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/torchherd)
ifeq ($(HOME),) # these caches are in HOME; without one they are in the same cache as LibTorch
export GOCACHE ?= $(CACHE)/go-build
export GOPATH ?= $(CACHE)/go
export GOLANGCI_LINT_CACHE ?= $(CACHE)/golangci-lint
endif
LINT_BIN := $(CACHE)/lint/bin
PYTHON := build/python/bin/python
PEERS_PYTHON := build/peers/bin/python
TOOLS := $(PYTHON) -m torchherd_tools

.DEFAULT_GOAL := help
.PHONY: help setup run build test race asan fuzz bench bench-go bench-resize floors soak swap-soak kill-soak tiles-soak chaos parity parity-corpus tools-test model-smoke horse2zebra photo2ink showcase goldens docs dist image image-cuda image-test gpu-check gpu-bundle lint fmt clean
.PHONY: shim floors-build python peers lint-tools lint-go lint-c lint-python lint-shell

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## install what the build needs (apt, when root or with sudo)
	@scripts/setup.sh

build: shim ## build bin/torchherd and its bin/lib
	@$(GO) build -tags relocatable -trimpath -ldflags "$(LDFLAGS)" -o bin/torchherd ./server

shim: setup
	@scripts/shim.sh build/csrc bin/lib

run: build ## serve the bundled model on port 8000 (MODEL=file.pt, PORT=N to change)
	@bin/torchherd serve --listen :$(PORT) $(MODEL)

# The command that runs Go tests. CI's counts them.
GOTEST ?= $(GO) test

# The race detector allocates, so with it the tests of memory run once more without it. Tests skip what needs
# a proxy where none can be installed. Under the race detector and beside other work, two cores take more than the ten
# minutes that a package has by default.
test: build ## build and run all tests (RACE=1: under the race detector)
	-@PATH="$$PATH:/usr/sbin" scripts/setup.sh nginx=nginx-light haproxy=haproxy heif-info=libheif-examples
	@ctest --test-dir build/csrc --output-on-failure
	$(GOTEST) -count=1 $(if $(RACE),-race -timeout 30m) ./...
	$(if $(RACE),$(GOTEST) -count=1 -run 'Memory|Cgroup|Allocate' ./server ./server/internal/imagecodec)

race: ## all tests, under the race detector
	@$(MAKE) --no-print-directory test RACE=1

ASAN_LIB := $(CURDIR)/build/asan/lib
asan: setup ## the tests of csrc, and the Go tests that call it, under AddressSanitizer and UBSan
	@scripts/shim.sh build/asan "$(ASAN_LIB)" -DTHD_SANITIZE=ON -DCMAKE_BUILD_TYPE=RelWithDebInfo
	@ctest --test-dir build/asan --output-on-failure
	CGO_LDFLAGS="'-L$(ASAN_LIB)' '-Wl,-rpath,$(ASAN_LIB)'" ASAN_OPTIONS=detect_leaks=0 \
		$(GO) test -count=1 -asan ./torch ./server/internal/imagecodec

FUZZTIME ?= 30s
FORMATS := PNG WebP AVIF JPEG2000 GIF BMP TIFF
fuzz: build ## fuzz the batcher, the image decoders, their budget, metadata and ICC profiles (FUZZTIME=30s each)
	$(GO) test -run '^$$' -fuzz FuzzContract -fuzztime $(FUZZTIME) -fuzzminimizetime 20x ./server/internal/batch
	$(GO) test -run '^$$' -fuzz FuzzDecode -fuzztime $(FUZZTIME) -fuzzminimizetime 20x ./server/internal/imagecodec
	for format in $(FORMATS); do \
		$(GO) test -run '^$$' -fuzz "^Fuzz$$format\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 20x ./server/internal/imagecodec || exit 1; done
	$(GO) test -run '^$$' -fuzz FuzzDetails -fuzztime $(FUZZTIME) -fuzzminimizetime 20x ./server/internal/imagecodec
	$(GO) test -run '^$$' -fuzz FuzzMetadata -fuzztime $(FUZZTIME) -fuzzminimizetime 20x ./server/internal/imagecodec
	$(GO) test -run '^$$' -fuzz FuzzICC -fuzztime $(FUZZTIME) -fuzzminimizetime 20x ./server/internal/colour
	$(GO) test -run '^$$' -fuzz FuzzWork -fuzztime $(FUZZTIME) -fuzzminimizetime 20x -parallel 1 ./server/internal/imagecodec

BENCH_SECONDS ?= 2
BENCH_ROUNDS ?= 3
bench: build floors-build peers ## compare with other servers, 45 minutes; writes docs/benchmarks.md (BENCH_ONLY, DEMO, ...: docs/development.md)
	@$(TOOLS) bench run --seconds $(BENCH_SECONDS) --rounds $(BENCH_ROUNDS) --only "$(BENCH_ONLY)" \
		--regimes "$(BENCH_REGIMES)" --demo "$(DEMO)" --peers-python $(PEERS_PYTHON)

FLOORS := build/csrc/floors
floors-build: shim
	@cmake --build build/csrc --target floors >build/csrc/build.log

floors: floors-build ## the codec alone and the bundled model alone, without a server
	@$(FLOORS) codec docs/pictures/before.jpg
	@$(FLOORS) forward models/photo2ink/model.pt --allocator system
	@$(FLOORS) forward models/photo2ink/model.pt --allocator kept

# RECORD=1 writes the record anew, on a machine that does nothing else.
bench-go: build ## Go benchmarks of each stage, compared by benchstat with the record in bench/go.txt
	$(GO) test -run '^$$' -bench . -benchmem -benchtime 0.5s -count 6 ./torch ./server/... >build/bench-go.txt
	@if [ -n "$(RECORD)" ]; then cp build/bench-go.txt bench/go.txt; else $(BENCHSTAT) bench/go.txt build/bench-go.txt; fi

bench-resize: shim ## time the resize beside ATen's, one thread
	@cmake --build build/csrc --target resize_bench >build/csrc/build.log
	@build/csrc/resize_bench

soak: build ## 20,000 requests of mixed pictures; prints the curve of the resident set (REQUESTS=N to change)
	$(GO) test -count=1 -v -tags soak -run "^TestSoak$$" -timeout 60m ./server

swap-soak: build ## 200 new versions under 80 % load; prints latencies beside those without, and the memory (SWAPS=N to change)
	$(GO) test -count=1 -v -tags soak -run TestSwapSoak -timeout 120m ./server

tiles-soak: build ## photographs of 48 megapixels through models in tiles; prints the memory that they take
	$(GO) test -count=1 -v -tags soak -run TestTilesSoak -timeout 60m ./server

kill-soak: build ## 1,000 ends of a model's process under load, each answered with its own client's image (KILLS=N to change)
	$(GO) test -count=1 -v -tags soak -run TestKillSoak -timeout 120m ./server

SEED ?= 1
MINUTES ?= 1
chaos: build ## disturb a server in every way at once, and account for each request (SEED=1, MINUTES=1)
	CHAOS_SEED=$(SEED) CHAOS_MINUTES=$(MINUTES) $(GO) test -count=1 -v -run '^TestChaos$$' -timeout 60m ./server

python: ## the virtual environment of tools/, build/python (5.8 GB in the cache, once)
	@scripts/setup.sh python3:ensurepip=python3-venv
	@scripts/venv.sh "$(CACHE)/python" tools/requirements.txt
	@scripts/venv.sh build/python tools "$(CACHE)/python"

peers: python
	@scripts/venv.sh "$(CACHE)/peers" tools/requirements-peers.txt "$(CACHE)/python"
	@scripts/venv.sh build/peers tools "$(CACHE)/peers"

docs: shim ## generate docs/model.schema.json, and the tables of settings and flags in the documentation
	@$(GO) run ./server/internal/docgen

# The tests of a file share what their fixtures make, so a file stays in one process; long files come first.
tools-test: build floors-build python ## the tests of tools/, with full PyTorch
	$(PYTHON) -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder tools

model-smoke: build python ## train 20 steps, export, serve and translate an image
	$(PYTHON) -m pytest -q tools/torchherd_tools/training/tests/test_smoke.py

REFERENCE ?= $(TOOLS) reference
parity: build python ## compare live responses with the Python reference server's (REFERENCE=command to change)
	@$(TOOLS) parity \
		--server-command "bin/torchherd serve --compat sanic --max-wait 0s --listen 127.0.0.1:{port} --admin-listen off models/photo2ink/model.pt" \
		--reference-command "$(REFERENCE) models/photo2ink/model.pt --port {port} --wait 0.01" \
		$(filter-out %/jpeg-cmyk.jpg,$(wildcard testdata/pictures/jpeg-*.jpg testdata/pictures/exif-*.jpg testdata/pictures/webp-lossy.webp))

parity-corpus: build python ## compare how torchherd and Pillow read the images of FOLDER; the sheet is in build/parity-corpus
	@$(TOOLS) parity-corpus "$(or $(FOLDER),$(error FOLDER is not set: make parity-corpus FOLDER=folder of images))"

horse2zebra: python ## fetch the book's weights (45 MB), verify and export them to models/horse2zebra/model.pt
	@$(TOOLS) horse2zebra

photo2ink: python ## make the bundled model again, in WORK (hours; the packages that its make.sh names)
	@PYTHON=$(PYTHON) models/photo2ink/make.sh "$(or $(WORK),build/photo2ink)"

# The photographs were never trained on; those in /usr/share are in the package lomiri-wallpapers-16.04.
SHOW = $(TOOLS) showcase --server-command "bin/torchherd serve --size keep --log-level error --listen 127.0.0.1:{port} --admin-listen off"
SUNSET = /usr/share/backgrounds/sunset_by_Aitzol_Berasategi.jpg
showcase: build python ## the before-and-after images of the README and of the bundled model's card
	$(SHOW) --pair docs/pictures skimage:chelsea.png
	$(SHOW) models/photo2ink/held-out-228.jpg skimage:chelsea.png skimage:astronaut.png skimage:coffee.png skimage:rocket.jpg
	$(SHOW) models/photo2ink/held-out-512.jpg --side 512 skimage:astronaut.png $(SUNSET)
	$(SHOW) models/photo2ink/held-out-1024.jpg --side 1024 $(SUNSET)

goldens: python ## make testdata/ and its goldens again
	@scripts/setup.sh transicc=liblcms2-utils avifenc=libavif-bin
	$(TOOLS) fixtures
	$(TOOLS) goldens
	$(TOOLS) colour
	$(TOOLS) formats
	$(TOOLS) avif

dist: build ## pack a tarball that runs without Go and Python
	@scripts/dist.sh $(VERSION)

# By Docker or Podman if one answers, else by buildah (ENGINE=docker, podman or buildah to choose). See
# docs/decisions/0013-images.md.
image: ## build the container image torchherd for the CPU
	@scripts/image.sh Dockerfile torchherd

image-cuda: ## build the container image torchherd:cuda for NVIDIA GPUs (20 GB of disk during the build)
	@scripts/image.sh Dockerfile.cuda torchherd:cuda

image-test: image ## start the CPU image with a read-only root and check its response, health, user and size
	@scripts/image_test.sh torchherd 600000000

gpu-check: ## on a machine with a GPU: build against its own PyTorch, test, compare, measure (docs/gpu.md; PARTS="build torch" to choose)
	@scripts/gpu_check.sh $(PARTS)

gpu-bundle: build ## pack what gpu-check needs on a machine without Go and network, 64 MiB at most
	@scripts/gpu_bundle.sh $(VERSION)

C_FILES = $(wildcard csrc/include/*.h csrc/src/*.h csrc/src/*.c csrc/src/*.cc csrc/test/*.c csrc/test/*.cc bench/*.cc)
# cuda_graph.cc can be read only where CUDA's headers are.
TIDY_FILES = $(filter-out csrc/src/cuda_graph.cc,$(filter %.cc %.c,$(C_FILES)))
PYTHON_FOLDERS := tools scripts
lint-tools:
	@scripts/setup.sh shellcheck=shellcheck python3:ensurepip=python3-venv
	@scripts/venv.sh "$(CACHE)/lint" scripts/lint-requirements.txt

lint: lint-go lint-c lint-python lint-shell ## all linters: Go, C++, Python, shell, Dockerfiles

lint-go: shim
	$(GOLANGCI_LINT) run ./...

lint-c: shim lint-tools
	@"$(LINT_BIN)/clang-format" --dry-run -Werror $(C_FILES)
	@printf '%s\n' $(TIDY_FILES) | xargs -n 1 -P "$$(getconf _NPROCESSORS_ONLN)" "$(LINT_BIN)/clang-tidy" --quiet -p build/csrc

lint-python: lint-tools
	@"$(LINT_BIN)/ruff" check $(PYTHON_FOLDERS)
	@"$(LINT_BIN)/ruff" format --check $(PYTHON_FOLDERS)

lint-shell: lint-tools
	@shellcheck --external-sources scripts/*.sh models/photo2ink/make.sh .ci/run .ci/checks
	@"$(LINT_BIN)/hadolint" Dockerfile Dockerfile.cuda

fmt: lint-tools ## format Go, C++ and Python
	@$(GOLANGCI_LINT) fmt ./...
	@$(LINT_BIN)/clang-format -i $(C_FILES)
	@"$(LINT_BIN)/ruff" check --quiet --select I --fix $(PYTHON_FOLDERS)
	@"$(LINT_BIN)/ruff" format $(PYTHON_FOLDERS)

clean: ## remove what was built (the cache with LibTorch stays)
	rm -rf bin build dist
