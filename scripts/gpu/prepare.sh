#!/usr/bin/env bash
# Gets the sources that peers.py compiles on the GPU machine, which needs no network then, into target/peers (ignored).
#
# usage: scripts/gpu/prepare.sh
set -euo pipefail
. "$(dirname "$0")/../setup.sh"
need_python || stop "no python3 that can make virtual environments"
folder=target/peers
mkdir -p "$folder"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# pip asks a source package's build script for its name, and these import torch, 2.5 GB with its libraries. A stand-in
# with the few names that they look up is enough.
mkdir -p "$work/stand-in/torch/utils"
printf '%s\n' '__version__ = "2.11.0"' 'class version: cuda = hip = None' > "$work/stand-in/torch/__init__.py"
printf '%s\n' 'BuildExtension = CppExtension = CUDAExtension = object' 'CUDA_HOME = HIP_HOME = ROCM_HOME = None' \
    > "$work/stand-in/torch/utils/cpp_extension.py"
cat > "$work/pinned" << 'PINNED'
mamba-ssm==2.3.2.post1 --hash=sha256:104cc47e9101e5401a675fa2b784f2952b9b037f3b1dd83b5ac544394e95d028
causal-conv1d==1.7.0 --hash=sha256:3202758494eaa7b597ce1c282dfa188889506bfcb92cad3c407d26736bfcd32b
PINNED

python3 -m venv "$work/venv"
pip=("$work/venv/bin/python" -m pip --quiet --disable-pip-version-check)
"${pip[@]}" install setuptools wheel packaging
PYTHONPATH=$work/stand-in MAMBA_SKIP_CUDA_BUILD=TRUE CAUSAL_CONV1D_SKIP_CUDA_BUILD=TRUE "${pip[@]}" download \
    --no-deps --no-binary :all: --no-build-isolation --require-hashes --dest "$work" --requirement "$work/pinned"
for archive in "$work"/*.tar.gz; do tar --extract --gzip --file "$archive" --directory "$folder"; done
say "in $folder: $(cd "$folder" && echo */)"
