"""Writes nbits.bin and nbits.txt beside itself: what onnxruntime's MatMulNBits decodes, and its quantizer's errors.

usage: python make_nbits.py      (needs numpy, onnx, onnxruntime and onnx_ir)

nbits.bin, little-endian: per grid u32 bits, block, zero points (0 or 1), rows, cols; codes, f32 scales, zero points; the f32
product with an identity. nbits.txt, a line per grid and data set (those of make.py): bits, block, zero points, set, mean
squared error of DefaultWeightOnlyQuantizer.
"""
from pathlib import Path

import numpy as np
import onnxruntime
from onnx import TensorProto, helper
from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, DefaultWeightOnlyQuantizer

from make import COLS, ROWS, data_sets

HERE = Path(__file__).parent
GRIDS = [(bits, block, zero) for bits in (4, 8) for block in (16, 32, 64, 128) for zero in (0, 1)]


def quantize(w, bits, block, zero):
    """Of w (rows, cols): codes (rows, blocks, bytes), scales (rows, blocks), zero points (rows, bytes)."""
    config = DefaultWeightOnlyQuantConfig(block_size=block, is_symmetric=not zero, bits=bits)
    codes, scales, zeros = DefaultWeightOnlyQuantizer(config).qbits_block_quant(np.ascontiguousarray(w.T))
    blocks = -(-w.shape[1] // block)
    return codes, scales.reshape(-1, blocks), zeros.reshape(len(w), -1) if zero else None


def decode(codes, scales, zeros, cols, bits, block):
    """What a session makes of an identity."""
    arrays = [("B", codes), ("scales", scales.reshape(-1))] + ([] if zeros is None else [("zeros", zeros.reshape(-1))])
    node = helper.make_node("MatMulNBits", ["A"] + [n for n, _ in arrays], ["Y"], domain="com.microsoft", K=cols, N=len(codes),
                            bits=bits, block_size=block, accuracy_level=1)
    inits = [helper.make_tensor(n, TensorProto.FLOAT if a.dtype == np.float32 else TensorProto.UINT8, a.shape, a.tobytes(), raw=True)
             for n, a in arrays]
    io = [[helper.make_tensor_value_info(n, TensorProto.FLOAT, s)] for n, s in (("A", [cols, cols]), ("Y", [cols, len(codes)]))]
    model = helper.make_model(helper.make_graph([node], "g", *io, inits), ir_version=10,
                              opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)])
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"A": np.eye(cols, dtype=np.float32)})[0].T


def main():
    out, rng = b"", np.random.default_rng(7)
    for bits, block, zero in GRIDS:
        rows, cols = 3, 2 * block + 24          # three blocks, the last one padded: an odd number of zero points
        codes, scales, zeros = quantize(rng.standard_normal((rows, cols), dtype=np.float32), bits, block, zero)
        numbers = decode(codes, scales, zeros, cols, bits, block)
        out += np.array([bits, block, zero, rows, cols], "<u4").tobytes() + codes.tobytes() + scales.tobytes()
        out += (b"" if zeros is None else zeros.tobytes()) + np.ascontiguousarray(numbers).tobytes()
    (HERE / "nbits.bin").write_bytes(out)

    lines = []
    for bits, block, zero in GRIDS:
        for name, x in data_sets().items():
            w = x.astype(np.float32).reshape(ROWS, COLS)
            codes, scales, zeros = quantize(w, bits, block, zero)
            error = np.mean((w.astype(np.float64) - decode(codes, scales, zeros, COLS, bits, block)) ** 2)
            lines.append(f"{bits} {block} {zero} {name} {error:.9e}\n")
    (HERE / "nbits.txt").write_text("".join(lines))


if __name__ == "__main__":
    main()
