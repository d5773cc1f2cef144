"""ONNX models in Python's onnxruntime with and without the library of operators: interleaved, medians, ratios. Prints the
tables of README.md and docs/onnx.md.

usage: onnx_speed.py TAMBORIM LIBRARY MODEL_FOLDER [--threads N] [--rounds N] [--type TYPE]...
Run it with a Python that has onnx, onnxruntime and numpy.
"""
import argparse
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

PREFILL, DECODE = 512, 64


def session(model, threads, library):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    if library:
        options.register_custom_ops_library(str(library))
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def interleaved(rounds, *jobs):
    """Seconds of every round of every job, the first round left out."""
    seconds = [[] for _ in jobs]
    for round in range(rounds + 1):
        for job, into in zip(jobs, seconds):
            started = time.perf_counter()
            job()
            if round:
                into.append(time.perf_counter() - started)
    return seconds


class Sequence:
    """A sequence in a session, its states carried without copies."""

    def __init__(self, session):
        self.session, self.length = session, 0
        self.outputs = [o.name for o in session.get_outputs()]
        self.past = {i.name: self.empty(i) for i in session.get_inputs() if i.name.startswith("past")}

    @staticmethod
    def empty(port):
        shape = [1 if d == "batch_size" else 0 if isinstance(d, str) else d for d in port.shape]
        return onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(shape, np.float32))

    def advance(self, tokens):
        self.length += len(tokens)
        value = lambda x: onnxruntime.OrtValue.ortvalue_from_numpy(np.asarray([x], np.int64))
        feed = {"input_ids": value(tokens), "attention_mask": value([1] * self.length), **self.past}
        found = self.session.run_with_ort_values(self.outputs, feed)
        states = zip(self.outputs, found)
        self.past = {"past_key_values" + n.removeprefix("present"): v for n, v in states if n.startswith("present")}


def prefill(session):
    Sequence(session).advance([(i * 7919) % 32000 for i in range(PREFILL)])


def decode(session):
    sequence = Sequence(session)
    for i in range(DECODE):
        sequence.advance([(i * 7919) % 32000])


def one_operator(path, sizes):
    """A model of the selective scan alone, with the function that the model at `path` carries, and its inputs."""
    function = next(f for f in onnx.load(path, load_external_data=False).functions if f.name == "SelectiveScan")
    length, channels, states = sizes
    shapes = {n: (1, length, channels) for n in ("u", "delta", "z", "y")}
    shapes |= {n: (1, length, states) for n in ("B", "C")} | {n: (channels,) for n in ("D", "delta_bias")}
    shapes |= {"A": (channels, states)} | {n: (1, channels, states) for n in ("past_state", "present_state")}
    value = lambda n: helper.make_tensor_value_info(n, TensorProto.FLOAT, shapes[n])
    node = helper.make_node("SelectiveScan", list(function.input), list(function.output), domain=function.domain)
    graph = helper.make_graph([node], "g", list(map(value, function.input)), list(map(value, function.output)))
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(function.domain, 1)]
    model = helper.make_model(graph, functions=[function], opset_imports=opsets, ir_version=10)
    draw = np.random.default_rng(0)
    inputs = {n: draw.standard_normal(shapes[n]).astype(np.float32) for n in function.input}
    return model.SerializeToString(), inputs | {"A": -np.exp(inputs["A"]), "delta": inputs["delta"] - 3}


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("tamborim", type=Path)
    ap.add_argument("library", type=Path)
    ap.add_argument("model", type=Path)
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--rounds", type=int, default=7)
    ap.add_argument("--type", action="append", choices=["f32", "f16", "bf16", "int8", "int4"])
    a = ap.parse_args()
    both, tool, checkpoint = (None, a.library.resolve()), a.tamborim.resolve(), a.model / "checkpoint.pth"
    with tempfile.TemporaryDirectory() as work:
        print(f"onnxruntime {onnxruntime.__version__}, {a.threads} threads, medians of {a.rounds} interleaved rounds\n")
        print(f"| weights | prefill of {PREFILL}, tokens/s: function, library | | decode, tokens/s: function, library | |")
        print("|---|---|---|---|---|")
        for kind in a.type or ["f32", "int8", "int4"]:
            path = Path(work) / f"{kind}.onnx"
            how = ["quantize", "--to"] if kind.startswith("int") else ["convert", "--dtype"]
            done = subprocess.run([tool, how[0], checkpoint, how[1], kind, "-o", path], capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(done.stderr)
            sessions = [session(str(path), a.threads, library) for library in both]
            cells = []
            for tokens, job in ((PREFILL, prefill), (DECODE, decode)):
                jobs = [lambda s=s: job(s) for s in sessions]
                function, library = interleaved(a.rounds, *jobs)
                rates = [tokens / statistics.median(x) for x in (function, library)]
                ratio = statistics.median(f / l for f, l in zip(function, library))
                cells += [f"{rates[0]:.0f}, {rates[1]:.0f}", f"{ratio:.2f}x"]
            print(f"| {kind} | " + " | ".join(cells) + " |", flush=True)
        print("\n| selective scan: tokens, d_inner, d_state | threads | function, us | library, us | |\n|---|---|---|---|---|")
        for sizes in ((1024, 768, 16), (1024, 3072, 16), (16, 768, 16), (1, 768, 16), (1, 3072, 16)):
            model, inputs = one_operator(path, sizes)
            rounds = a.rounds * max(1, 256 // sizes[0])
            for threads in sorted({1, a.threads}):
                jobs = [lambda s=session(model, threads, library): s.run(None, inputs) for library in both]
                function, library = interleaved(rounds, *jobs)
                ratio = statistics.median(f / l for f, l in zip(function, library))
                us = [1e6 * statistics.median(x) for x in (function, library)]
                print(f"| {', '.join(map(str, sizes))} | {threads} | {us[0]:.0f} | {us[1]:.0f} | {ratio:.1f}x |", flush=True)


if __name__ == "__main__":
    main()
