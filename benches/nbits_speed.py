"""MatMulNBits' quantizer beside onnxruntime's, which does not search: the same normal numbers, processor time, interleaved,
medians, ratios. Prints the table of docs/quantization.md.

usage: nbits_speed.py NBITS_SPEED PEERS_FOLDER [--block N]... [--size N] [--rounds N]
NBITS_SPEED is quant/examples/nbits_speed.rs, built; PEERS_FOLDER holds ort_quantize.py. Run it with a Python that has numpy
and onnxruntime.
"""
import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

# (bits, with zero points)
KINDS = [(4, True), (4, False), (8, True), (8, False)]


def report(*command):
    done = subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("nbits_speed", type=Path)
    ap.add_argument("peers", type=Path)
    ap.add_argument("--block", type=int, action="append")
    ap.add_argument("--size", type=int, default=4096, help="rows and columns")
    ap.add_argument("--rounds", type=int, default=5)
    a = ap.parse_args()
    print("| bits | block | M weights/s a core, ours / onnxruntime | times as fast | squared error, of onnxruntime's |")
    print("|---|---|---|---|---|")
    with tempfile.NamedTemporaryFile(suffix=".f32") as numbers:
        # What ort_quantize.py draws, (inputs, outputs).
        drawn = np.random.default_rng(0).standard_normal((a.size, a.size), dtype=np.float32) * np.float32(0.02)
        np.ascontiguousarray(drawn.T).tofile(numbers.name)
        for bits, zero_points in KINDS:
            for block in a.block or [32]:
                grid, symmetric = (bits, block, str(zero_points).lower()), [] if zero_points else ["--symmetric"]
                rounds = []
                for _ in range(a.rounds):
                    x = report(a.nbits_speed.resolve(), numbers.name, a.size, *grid)
                    y = report(sys.executable, a.peers / "ort_quantize.py", f"{a.size}x{a.size}", "--bits", bits,
                               "--block", block, *symmetric)
                    rounds.append((x["melem_per_cpu_s"], y["melem_per_cpu_s"]))
                ours, theirs = (statistics.median(c) for c in zip(*rounds))
                kind = f"{bits}{', zero points' if zero_points else ''}"
                print(f"| {kind} | {block} | {ours:.0f} / {theirs:.0f} | {statistics.median(x / y for x, y in rounds):.1f} "
                      f"| {(x['rel_error'] / y['rel_error']) ** 2:.2f} |", flush=True)


if __name__ == "__main__":
    main()
