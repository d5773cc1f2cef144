"""Writes golden.bin and errors.txt beside itself: what gguf-py decodes and how large ggml's own rounding errors are.

usage: GGML_LIB=libggml-base.so python make.py      (needs numpy, gguf; see peers/setup.sh)

golden.bin, little-endian: per format u32 ggml_type, u32 blocks, the blocks, the decoded f32.
errors.txt, a line per ggml_type and data set: type, set, mean squared error of ggml without and with importance
(the latter weighed by it). The data sets are generated here and in ../encoding.rs, number for number.
"""
import ctypes
import os
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T

HERE = Path(__file__).parent
TYPES = {T.F32: 512, T.F16: 4096, T.BF16: 4096, T.Q8_0: 160, T.Q4_0: 160, T.Q4_1: 160, T.Q5_0: 160, T.Q4_K: 40, T.Q5_K: 24,
         T.Q6_K: 40, T.IQ4_NL: 160, T.IQ4_XS: 24}
SCALES = {T.Q8_0: [0], T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208],
          T.IQ4_NL: [0], T.IQ4_XS: [0]}  # byte offsets of f16 scales
ROWS, COLS = 64, 1024


def uniform(n, stream):
    """n numbers in [0, 1), multiples of 2^-24: splitmix64 of a counter."""
    with np.errstate(over="ignore"):
        z = (np.arange(1, n + 1, dtype=np.uint64) + (np.uint64(stream) << np.uint64(40))) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(40)).astype(np.float64) / 2**24


def gaussian(n, stream):
    """Near enough: twelve uniform numbers, exact sums."""
    return sum(uniform(n, stream * 16 + i) for i in range(12)) - 6


def data_sets():
    n = ROWS * COLS
    return {
        "gaussian": gaussian(n, 1) * 0.0625,
        "heavy": gaussian(n, 2) * 0.0625 / (0.125 + uniform(n, 99)),
        "shifted": gaussian(n, 3) * 0.0625 + 0.125,
        "sparse": np.where(uniform(n, 98) < 0.75, 0.0, gaussian(n, 4)),
    }


def random_blocks(t, blocks, rng):
    size = gguf.GGML_QUANT_SIZES[t][1]
    raw = rng.integers(0, 256, (blocks, size), dtype=np.uint8)
    if t in SCALES:
        for at in SCALES[t]:
            bits = rng.integers(0, 0x7C00, blocks, dtype=np.uint16) | (rng.integers(0, 2, blocks, dtype=np.uint16) << 15)
            bits[:6] = [0x0000, 0x8000, 0x0001, 0x03FF, 0x7BFF, 0xFBFF]
            raw[:, at:at + 2] = bits.view(np.uint8).reshape(-1, 2)
        return raw
    # Floats: no NaN, whose payloads are nobody's contract.
    x = raw.view({T.F32: np.float32, T.F16: np.float16}.get(t, np.uint16))
    bad = (x & 0x7FFF) > 0x7F80 if t == T.BF16 else np.isnan(x)
    x[bad] = 0
    return raw


def main():
    rng, out = np.random.default_rng(20240607), b""
    for t, blocks in TYPES.items():
        raw = random_blocks(t, blocks, rng)
        with np.errstate(over="ignore"):
            numbers = np.ascontiguousarray(gguf.quants.dequantize(raw.reshape(1, -1), t), np.float32)
        out += np.array([t, blocks], "<u4").tobytes() + raw.tobytes() + numbers.tobytes()
    (HERE / "golden.bin").write_bytes(out)

    lib = ctypes.CDLL(os.environ["GGML_LIB"])
    lib.ggml_quantize_chunk.restype = ctypes.c_size_t
    lib.ggml_quantize_chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p] + [ctypes.c_int64] * 3 + [ctypes.c_void_p]
    u = uniform(COLS, 97)
    importance = (0.03125 + (u * u) * (u * u)).astype(np.float32)
    lines = []
    for t in TYPES:
        if t in (T.F32, T.F16, T.BF16):
            continue
        block, size = gguf.GGML_QUANT_SIZES[t]
        lib.ggml_quantize_init(ctypes.c_int(int(t)))
        for name, x in data_sets().items():
            x, errors = np.ascontiguousarray(x.astype(np.float32).reshape(ROWS, COLS)), []
            for weight in (None, importance):
                raw = np.zeros((ROWS, COLS // block * size), np.uint8)
                lib.ggml_quantize_chunk(int(t), x.ctypes.data, raw.ctypes.data, 0, ROWS, COLS, None if weight is None else weight.ctypes.data)
                e = (gguf.quants.dequantize(raw, t).astype(np.float64) - x) ** 2
                errors.append((e if weight is None else e * weight).mean())
            lines.append(f"{int(t)} {name} {errors[0]:.9e} {errors[1]:.9e}\n")
    (HERE / "errors.txt").write_text("".join(lines))


if __name__ == "__main__":
    main()
