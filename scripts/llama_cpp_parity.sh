#!/usr/bin/env bash
# Compares tamborim's GGUF files with the real llama.cpp, logit by logit. Building llama.cpp's Python package from source
# takes about 15 minutes on two cores, so this is no part of the test command.
#   usage: scripts/llama_cpp_parity.sh [FIXTURES]     default: ../shared/fixtures
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --release
python=.venv-llama/bin/python
[ -x "$python" ] || python3 -m venv .venv-llama
"$python" -m pip install --quiet --no-binary llama-cpp-python llama-cpp-python==0.3.36 numpy==2.4.6 safetensors==0.8.0
exec "$python" scripts/llama_cpp_parity.py target/release/tamborim "${1:-../shared/fixtures}"
