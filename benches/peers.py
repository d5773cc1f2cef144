"""Tamborim beside other tools on one machine in one run: interleaved, medians, ratios. Prints the tables of the README.

usage: peers.py TAMBORIM PEERS_FOLDER MODEL_FOLDER [--rounds 5]
PEERS_FOLDER holds convert_baseline.py (torch.load + gguf-py) and ggml_quantize.py (ggml's own quantizers); run this with
the Python that they need, GGML_LIB set. Tamborim is timed as a whole process, start-up included; the baselines by their
own `seconds`, which leave out Python's imports (1-2 s) and, for quantizing, reading and writing: ratios favour them.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TYPES = ["q8_0", "q6_k", "q4_k", "q4_0"]


def ours(*command):
    """(seconds, peak MiB) of a whole process."""
    started = time.perf_counter()
    child = subprocess.Popen([str(c) for c in command], stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = status
    if status:
        raise SystemExit(f"{command} failed")
    return time.perf_counter() - started, usage.ru_maxrss / 1024


def theirs(*command):
    done = subprocess.run([sys.executable, *map(str, command)], check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("tamborim", type=Path)
    ap.add_argument("peers", type=Path)
    ap.add_argument("model", type=Path)
    ap.add_argument("--rounds", type=int, default=5)
    a = ap.parse_args()
    tool, checkpoint = a.tamborim.resolve(), a.model / "checkpoint.pth"
    gigabytes = checkpoint.stat().st_size / 1e9
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        print("| convert to | GB/s of input, ours / torch + gguf-py | times as fast | peak memory, MiB |")
        print("|---|---|---|---|")
        for dtype in ["bf16", "f16", "f32"]:
            rows = []
            for _ in range(a.rounds):
                seconds, peak = ours(tool, "convert", checkpoint, "--dtype", dtype, "-o", work / "ours.gguf")
                r = theirs(a.peers / "convert_baseline.py", a.model, work / "theirs.gguf", "--dtype", dtype)
                rows.append((gigabytes / seconds, r["input_gb_per_s"], peak, r["peak_rss_mib"]))
            x, y, p, q = (statistics.median(c) for c in zip(*rows))
            print(f"| {dtype} | {x:.2f} / {y:.2f} | {statistics.median(r[0] / r[1] for r in rows):.1f} | {p:.0f} / {q:.0f} |")
        ours(tool, "convert", checkpoint, "-o", work / "source.gguf")
        print("\n| quantize to | M weights/s, ours / ggml | times as fast |")
        print("|---|---|---|")
        for kind in TYPES:
            rows = []
            for _ in range(a.rounds):
                seconds, _ = ours(tool, "quantize", work / "source.gguf", "--to", kind, "-o", work / "ours.gguf")
                r = theirs(a.peers / "ggml_quantize.py", work / "source.gguf", work / "theirs.gguf", "--type", kind)
                weights = sum(t["elements"] for t in r["types"].values()) / 1e6
                rows.append((weights / seconds, weights / r["quantize_seconds"]))
            x, y = (statistics.median(c) for c in zip(*rows))
            print(f"| {kind} | {x:.0f} / {y:.0f} | {statistics.median(r[0] / r[1] for r in rows):.1f} |")


if __name__ == "__main__":
    main()
