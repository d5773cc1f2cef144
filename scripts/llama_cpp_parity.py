"""Logits of real llama.cpp on the GGUF files that tamborim writes in llama.cpp's own architectures.

usage: llama_cpp_parity.py TAMBORIM FIXTURES
Needs the packages llama-cpp-python (built from source: long) and safetensors. FIXTURES/lit holds checkpoints
(checkpoint.pth, lit_config.json, tokens.json), FIXTURES/descendants Hugging Face folders with golden.safetensors. Each is
converted, and llama.cpp's logits are compared with tamborim's own on the float32-table twin of the model, because llama.cpp
computes RoPE in float32 where the training code rounds the table to bfloat16 (2e-2 in logits of these tiny models).
PLaMo-2 is compared in float32, 8 and 4 bits, in one batch and token by token.
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
# Logits up to 13; the two float32 runs are as far from float64 as from each other.
PLAMO2_LIMIT = 1e-3
# Rounded weights move the logits of these tiny models far, and llama.cpp rounds the activations too: its distance to the golden
# may be so many times ours (rms).
PLAMO2_QUANTIZED_RATIO = 2


def logits_of(path, tokens, vocab, at_once=None):
    """Every position's logits, computed by llama.cpp in batches of `at_once` (default: one), float32 keys and values."""
    at_once = at_once or len(tokens)
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
    batch = llama_cpp.llama_batch_init(at_once, 0, 1)
    rows = []
    for first in range(0, len(tokens), at_once):
        piece = tokens[first:first + at_once]
        batch.n_tokens = len(piece)
        for i, token in enumerate(piece):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = token, first + i, 1, 0, 1
        if llama_cpp.llama_decode(context, batch):
            raise SystemExit(f"{path}: llama.cpp fails to decode")
        for i in range(len(piece)):
            rows.append(np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, i), (vocab,)).copy())
    llama_cpp.llama_batch_free(batch)
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)
    return np.stack(rows)


def plamo2(tool, folder, work):
    """Whether llama.cpp computes a PLaMo-2 as we do: the same logits in float32, as good ones in fewer bits."""
    golden = load_file(folder / "golden.safetensors")
    ids, truth = golden["input_ids"][0].tolist(), golden["logits"][0]
    (work / "t.json").write_text(json.dumps({"tokens": ids}))
    passed = True
    rms = lambda x: float(np.sqrt((x * x).mean()))
    for form in ("f32", "q8_0", "int4"):
        command = ["convert", "--dtype", "f32"] if form == "f32" else ["quantize", "--to", form]
        subprocess.run([tool, *command, folder, "-o", work / "p.gguf"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        subprocess.run([tool, "logits", work / "p.gguf", "--tokens", work / "t.json", "-o", work / "l.safetensors", "--device", "cpu"], check=True)
        ours = load_file(work / "l.safetensors")["logits"]
        theirs = [logits_of(work / "p.gguf", ids, ours.shape[1], n) for n in (None, 1)]
        if form == "f32":
            far = max(float(np.abs(ours - t).max()) for t in theirs)
            print(f"{folder.name:20} plamo2 f32   largest logit difference {far:.2e} (logits up to {np.abs(ours).max():.1f})")
            passed &= far < PLAMO2_LIMIT
        else:
            own, other = rms(ours - truth), max(rms(t - truth) for t in theirs)
            print(f"{folder.name:20} plamo2 {form:5} rms distance to the golden: ours {own:.2e}, llama.cpp's {other:.2e}")
            passed &= other < PLAMO2_QUANTIZED_RATIO * own
    return passed


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
        folder = fixtures / "lit" / name
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
    for folder in sorted((fixtures / "descendants").glob("plamo2*")):
        with tempfile.TemporaryDirectory() as work:
            if not plamo2(tool, folder, Path(work)):
                failed.append(folder.name)
        ran += 1
    print(f"{ran - len(failed)} passed, {len(failed)} failed")
    sys.exit(bool(failed) or not ran)


if __name__ == "__main__":
    main()
