# Every way to run this project. Variables, each passed on only when set:
#   SCALE=smoke  SEEDS=1  ONLY=p1_figure02,p2_figure02  DEVICE=cpu  JOBS=2  RANKS=2  TIME=3600

# Cargo alone knows where it builds: an environment variable or a config.toml of the user's
# may say so. A machine that only runs the program may have no Cargo.
TARGET := $(shell cargo metadata --format-version 1 --no-deps --offline 2>/dev/null | \
                  sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
export CARGO_TARGET_DIR := $(or $(TARGET),$(CARGO_TARGET_DIR),target)
BIN = $(CARGO_TARGET_DIR)/release/cotalign
COMMON = $(if $(SEEDS),--seeds $(SEEDS)) $(if $(ONLY),--only $(ONLY)) \
         $(if $(DEVICE),--device $(DEVICE)) $(if $(JOBS),--jobs $(JOBS)) \
         $(if $(RANKS),--ranks $(RANKS))

.PHONY: help build reproduce smoke test lint parity test-endpoint fuzz pocket-models notebooks clean \
        cuda test-cuda bench-cuda lint-cuda

help: ## list the targets (default)
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-14s %s\n", $$1, $$2 }' Makefile
	@sed -n 's/^# *\(.*\)/\1/p' Makefile | head -n 2

build: ## the program, optimised
	cargo build --release --locked

reproduce: build ## make all tables and figures, running what is missing
	"$(BIN)" reproduce $(if $(SCALE),--scale $(SCALE)) $(COMMON)

smoke: build ## every stage once and tiny, from nothing (the numbers mean nothing)
	rm -rf runs/smoke
	"$(BIN)" reproduce --scale smoke --runs runs/smoke --out runs/smoke $(COMMON)

test: ## all tests
	cargo test --release --locked

lint: ## formatting, clippy and documentation, warnings are errors
	cargo fmt --check
	cargo clippy --release --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --release --locked --no-deps

parity: ## compare with transformers, PEFT, bitsandbytes, TRL and lm-eval, live
	tests/parity/run

test-endpoint: build ## a teacher behind `transformers serve` answers as the local one does
	BIN="$(BIN)" tests/endpoint/run

cuda: ## the program for a GPU, target/cuda/cotalign-cuda; brings CUDA 13.0 if there is none
	tests/cuda/build

# The program of `make cuda`, unless BIN= names another one.
test-cuda bench-cuda: PROGRAM = BIN="$(if $(filter command,$(firstword $(origin BIN))),$(BIN))"

test-cuda: ## on a GPU: ops and whole steps against the CPU path (needs only the program)
	$(PROGRAM) tests/cuda/test

bench-cuda: ## on a GPU: speed and memory beside the Python stack, into results/bench_cuda.md
	$(PROGRAM) tests/cuda/bench

# Stand-in compiler, own build folder: what comes out cannot run.
lint-cuda: ## clippy over the CUDA code, without CUDA
	PATH="$(CURDIR)/tests/cuda:$$PATH" NVCC="$(CURDIR)/tests/cuda/nvcc" CUDA_COMPUTE_CAP=90 \
	CARGO_TARGET_DIR="$(CARGO_TARGET_DIR)/cuda-check" \
	cargo clippy --release --locked --all-targets --features nccl -- -D warnings

# Sanitizers look for what safe Rust cannot do and need a nightly compiler; without them the
# stable one will do, told to take the coverage flags.
fuzz: ## an hour (TIME) each of random bytes for the answer reader and the loaders
	RUSTC_BOOTSTRAP=1 cargo fuzz run -s none reader -- -max_total_time=$(or $(TIME),3600) -dict=fuzz/reader.dict
	RUSTC_BOOTSTRAP=1 cargo fuzz run -s none loaders -- -max_total_time=$(or $(TIME),3600)

pocket-models: build ## pretrain the pocket base models from nothing
	"$(BIN)" pretrain $(if $(JOBS),--jobs $(JOBS))

notebooks: ## run the notebooks in place; sets up a Rust kernel the first time
	notebooks/run

clean: ## remove runs and everything built; results and figures stay
	cargo clean
	rm -rf runs .evcxr .venv .venv-parity
