#!/usr/bin/env bash
# Everything that must hold before a change lands: format, lints, documentation, tests. The tests' summary comes last.
#
# usage: scripts/test.sh
set -euo pipefail
. "$(dirname "$0")/setup.sh"
need_build
need_lint

# The formats' own libraries read and run our files in some tests, jsonschema holds the report to its schema, playwright and
# Chromium look at its page; these tests are skipped where there are none.
if [ -z "${TAMBORIM_PYTHON:-}" ]; then
    pinned="gguf==0.19.0 numpy==2.4.6 safetensors==0.8.0 onnx==1.23.2 onnxruntime==1.31.1 onnxruntime-genai==0.18.0"
    pinned="$pinned jsonschema==4.26.0 playwright==1.65.2"
    python=$PWD/.venv/bin/python
    if [ "$(cat .venv/pinned 2> /dev/null)" != "$pinned" ]; then
        say "Python packages for the tests: $pinned"
        if need_python && python3 -m venv .venv && "$python" -m pip install --quiet --disable-pip-version-check --retries 2 $pinned; then
            printf '%s' "$pinned" > .venv/pinned
        fi
    fi
    if [ -f .venv/pinned ] && "$python" -c 'import gguf, onnx, onnxruntime, onnxruntime_genai' 2> /dev/null; then
        export TAMBORIM_PYTHON=$python
    else
        say "no Python with $pinned here: the tests that need it are skipped"
    fi
fi
need_chromium || say "no Chromium here: nobody looks at the report's page"

# The CUDA kernels: what is checked in must be what their sources compile to. Needs one pinned package and no GPU.
nvrtc=nvidia-cuda-nvrtc-cu12==12.9.86
if [ "$(cat .venv-nvrtc/pinned 2> /dev/null)" != "$nvrtc" ]; then
    say "Python package for the kernels: $nvrtc"
    if need_python && python3 -m venv .venv-nvrtc \
        && .venv-nvrtc/bin/python -m pip install --quiet --disable-pip-version-check --retries 2 "$nvrtc"; then
        printf '%s' "$nvrtc" > .venv-nvrtc/pinned
    fi
fi
if [ -f .venv-nvrtc/pinned ]; then
    say "kernels"
    kernels/cuda/build.py --venv .venv-nvrtc --check
else
    say "no $nvrtc here: whether the compiled kernels are those of the sources is not checked"
fi
# The same sources on the CPU, behind a stand-in for the driver.
stand_in=$PWD/target/cuda-on-cpu
if need_cxx; then
    say "kernels on the CPU"
    kernels/cuda/shim/build.sh "$stand_in"
else
    say "no g++ and python3 here: the CUDA runtime is not tested"
    stand_in=
fi

# One profile for all, so that what lints and documentation build (procedural macros, build scripts) serves the tests too.
say "cargo fmt"
cargo fmt --all --check
say "cargo clippy"
cargo clippy --quiet --workspace --all-targets --release -- -D warnings
say "cargo doc"
RUSTDOCFLAGS="-D warnings" cargo doc --quiet --workspace --no-deps --release
say "documentation tests"
cargo test --quiet --workspace --release --doc
run_tests() { # what cargo nextest selects, and what cargo test does
    if cargo nextest --version > /dev/null 2>&1; then
        cargo nextest run --workspace --release --no-fail-fast --status-level slow --final-status-level slow ${1:+-E "test($1)"}
    else
        cargo test --quiet --workspace --release --no-fail-fast --lib --bins --tests ${1:-}
    fi
}
# Threads of a block in their plain order, and in two shuffled ones: a missing barrier shows as wrong numbers. The committed
# fixtures do: emulating a GPU takes its time.
for seed in ${stand_in:+0 1 2}; do
    say "tests of the CUDA runtime on the CPU, order of threads $seed"
    filter=cuda_
    [ "$seed" = 0 ] || filter=cuda_exact_operations
    TAMBORIM_COMMITTED_ONLY=1 TAMBORIM_CUDA_PATH=$stand_in SHIM_SEED=$seed run_tests "$filter"
done
say "tests"
run_tests
