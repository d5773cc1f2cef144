"""Logits of real llama.cpp on the GGUF files that tamborim writes in llama.cpp's own architectures.

usage: llama_cpp_parity.py TAMBORIM FIXTURES
Needs the packages llama-cpp-python (built from source: long) and safetensors. FIXTURES is a folder of checkpoints
(checkpoint.pth, lit_config.json, tokens.json). Each is converted, and llama.cpp's logits are compared with tamborim's own
on the float32-table twin of the model, because llama.cpp computes RoPE in float32 where the training code rounds the
table to bfloat16 (2e-2 in logits of these tiny models).
"""
import ctypes
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import llama_cpp
import numpy as np
from safetensors.numpy import load_file

ARCHITECTURES = {
    "mamba": "mamba", "llama_full": "llama", "llama_swa": "granite_swa", "llama_swa_full2": "granite_swa",
    "llama_swa_gqa2": "granite_swa",
}
LIMIT = 1e-4


def logits_of(path, tokens, vocab):
    """Every position's logits, computed by llama.cpp in one batch, float32 keys and values."""
    model_params = llama_cpp.llama_model_default_params()
    model_params.n_gpu_layers = 0
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), model_params)
    if not model:
        raise SystemExit(f"{path}: llama.cpp does not load it")
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = max(len(tokens), 32)
    params.type_k = params.type_v = llama_cpp.GGML_TYPE_F32
    params.flash_attn_type = 0
    context = llama_cpp.llama_init_from_model(model, params)
    batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
    batch.n_tokens = len(tokens)
    for i, token in enumerate(tokens):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = token, i, 1, 0, 1
    if llama_cpp.llama_decode(context, batch):
        raise SystemExit(f"{path}: llama.cpp fails to decode")
    rows = [np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, i), (vocab,)).copy() for i in range(len(tokens))]
    llama_cpp.llama_batch_free(batch)
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)
    return np.stack(rows)


def patch_table_type(path, out):
    """A copy of a GGUF file without its key for the table's type, so that the architecture's default, float32, applies.

    The key is renamed to one of the same length that nobody reads: no offset moves.
    """
    out.write_bytes(path.read_bytes().replace(b"rope.table_type", b"rope.table_none"))


def main():
    tool, fixtures = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    quiet = llama_cpp.llama_log_callback(lambda level, text, user: None)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    failed, ran = [], 0
    for name, architecture in ARCHITECTURES.items():
        folder = fixtures / name
        if not folder.is_dir():
            print(f"{name:20} not there, skipped")
            continue
        with tempfile.TemporaryDirectory() as work:
            work = Path(work)
            subprocess.run([tool, "convert", folder / "checkpoint.pth", "-o", work / "a.gguf"], check=True, stderr=subprocess.DEVNULL)
            patch_table_type(work / "a.gguf", work / "b.gguf")
            subprocess.run([tool, "logits", work / "b.gguf", "--tokens", folder / "tokens.json", "-o", work / "l.safetensors"], check=True)
            ours = load_file(work / "l.safetensors")["logits"][0]
            tokens = json.loads((folder / "tokens.json").read_text())["tokens"][0]
            theirs = logits_of(work / "a.gguf", tokens, ours.shape[1])
            difference = float(np.abs(ours - theirs).max())
        print(f"{name:20} {architecture:12} largest logit difference {difference:.2e} (logits up to {np.abs(ours).max():.1f})")
        if not difference < LIMIT:
            failed.append(name)
        ran += 1
    print(f"{ran - len(failed)} passed, {len(failed)} failed")
    sys.exit(bool(failed) or not ran)


if __name__ == "__main__":
    main()
