#!/usr/bin/env bash
# Everything that must hold before a change lands: format, lints, documentation, tests. The tests' summary comes last.
#
# usage: scripts/test.sh
set -euo pipefail
. "$(dirname "$0")/setup.sh"
need_build
need_lint

# gguf-py, the GGUF format's own library, reads our files in one test. Without it that test says so and is skipped.
if [ -z "${TAMBORIM_PYTHON:-}" ]; then
    pinned="gguf==0.19.0 numpy==2.4.6 safetensors==0.8.0"
    python=$PWD/.venv/bin/python
    if [ "$(cat .venv/pinned 2> /dev/null)" != "$pinned" ]; then
        say "Python packages for the tests: $pinned"
        if need_python && python3 -m venv .venv && "$python" -m pip install --quiet --disable-pip-version-check --retries 2 $pinned; then
            printf '%s' "$pinned" > .venv/pinned
        fi
    fi
    if [ -f .venv/pinned ] && "$python" -c 'import gguf' 2> /dev/null; then
        export TAMBORIM_PYTHON=$python
    else
        say "no Python with $pinned here: the test that reads our files with gguf-py is skipped"
    fi
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
say "tests"
if cargo nextest --version > /dev/null 2>&1; then
    exec cargo nextest run --workspace --release --no-fail-fast --status-level slow --final-status-level slow
fi
exec cargo test --quiet --workspace --release --no-fail-fast --lib --bins --tests
