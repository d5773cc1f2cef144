#!/usr/bin/env bash
# Builds Tamborim and runs its demo: convert, quantize and verify the small model that comes with it.
#
# usage: scripts/demo.sh [--out DIR]
set -euo pipefail
here=$PWD
. "$(dirname "$0")/setup.sh"
need_build
cargo build --release --quiet
binary=${CARGO_TARGET_DIR:-target}/release/tamborim
[ "${binary#/}" != "$binary" ] || binary=$PWD/$binary
cd "$here"
exec "$binary" demo "$@"
