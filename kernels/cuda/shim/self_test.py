#!/usr/bin/env python3
"""Tests the shim itself: that warp operations and formats are right, and that each typical mistake shows.

    kernels/cuda/shim/self_test.py [OUT_DIR]
"""

import array
import ctypes
import os
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
SEEDS = range(12)


def load(folder):
    library = ctypes.CDLL(str(Path(folder, "libcuda.so.1")))
    context = ctypes.c_void_p()
    assert library.cuInit(0) == 0
    assert library.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0
    assert library.cuCtxSetCurrent(context) == 0
    return library


class Buffer:
    """Device memory, which here is host memory too."""

    def __init__(self, library, kind, values):
        data = array.array(kind, [0] * values if isinstance(values, int) else values)
        self.pointer = ctypes.c_uint64()
        size = len(data) * data.itemsize
        assert library.cuMemAlloc_v2(ctypes.byref(self.pointer), ctypes.c_size_t(size)) == 0
        self.view = (ctypes.c_char * size).from_address(self.pointer.value)
        self.kind = kind
        if not isinstance(values, int):
            self.view[:] = data.tobytes()

    def read(self):
        return list(array.array(self.kind, bytes(self.view)))


class Attribute(ctypes.Structure):
    _fields_ = [("id", ctypes.c_int), ("", ctypes.c_int), ("value", ctypes.c_int), ("rest", ctypes.c_char * 60)]


class Configuration(ctypes.Structure):
    _fields_ = [("dimensions", ctypes.c_uint * 6), ("shared", ctypes.c_uint), ("stream", ctypes.c_void_p),
                ("attributes", ctypes.POINTER(Attribute)), ("count", ctypes.c_uint)]


def launch(library, name, grid, block, shared, *arguments, overlap=False):
    function = ctypes.c_void_p()
    assert library.cuModuleGetFunction(ctypes.byref(function), None, name.encode()) == 0
    values = [a.pointer if isinstance(a, Buffer) else ctypes.c_int(a) for a in arguments]
    pointers = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
    attributes = ctypes.pointer(Attribute(6, 0, 1))  # programmatic stream serialization
    configuration = Configuration((grid, 1, 1, block, 1, 1), shared, None, attributes, int(overlap))
    code = library.cuLaunchKernelEx(ctypes.byref(configuration), function, pointers, None)
    assert code == 0, f"{name}: {code}"
    if not overlap:
        library.cuCtxSynchronize()


def bf16(x):
    return struct.unpack("<I", struct.pack("<f", x))[0] >> 16


def main(folder):
    library = load(folder)

    def results(wrong, run):
        """Bits of the output under each seed."""
        out = []
        for seed in SEEDS:
            library.shim_set_seed(ctypes.c_ulonglong(seed))
            out.append(bytes(run(wrong).view))
        return out

    numbers = Buffer(library, "f", [(i * 37 % 101) / 16 for i in range(4096)])

    def run_sum(wrong):
        y = Buffer(library, "f", 4)
        launch(library, "test_sum", 4, 256, 0, numbers, y, 1000, wrong)
        return y

    def run_pipeline(wrong):
        y = Buffer(library, "f", 8 * 256)
        launch(library, "test_pipeline", 1, 64, 2048, numbers, y, 8, wrong)
        return y

    def run_rotate(wrong):
        x = Buffer(library, "f", range(32))
        launch(library, "test_rotate", 1, 32, 0, x, wrong)
        return x

    whole = numbers.read()
    expected = [array.array("f", x).tobytes() for x in
                ([sum(whole[i * 1000:(i + 1) * 1000]) for i in range(4)], whole[:2048], [(i + 1) % 32 for i in range(32)])]
    for name, run, mistakes, right in zip(["sum", "pipeline", "rotate"], [run_sum, run_pipeline, run_rotate], [1, 4, 1], expected):
        assert set(results(0, run)) == {right}, name
        for wrong in range(1, mistakes + 1):
            bad = sum(out != right for out in results(wrong, run))
            print(f"{name}, mistake {wrong}: seen under {bad} of {len(SEEDS)} seeds")
            assert bad > 0
    library.shim_set_seed(ctypes.c_ulonglong(0))

    a, b = [(i * 7 % 23 - 11) / 8 for i in range(256)], [(i * 5 % 19 - 9) / 4 for i in range(128)]
    d = Buffer(library, "f", 128)
    launch(library, "test_mma", 1, 32, 768, Buffer(library, "H", map(bf16, a)), Buffer(library, "H", map(bf16, b)), d)
    assert d.read() == [sum(a[i * 16 + k] * b[k * 8 + j] for k in range(16)) for i in range(16) for j in range(8)]

    y = Buffer(library, "i", 8 * 32)
    launch(library, "test_warp", 1, 32, 0, y)
    rows = [y.read()[i * 32:i * 32 + 31] for i in range(8)]
    lanes = range(31)
    assert rows == [
        [30 if i < 16 else 0 for i in lanes],
        [i ^ 1 if i < 8 else 11 for i in lanes],
        [i if i % 8 < 3 else i - 3 for i in lanes],
        [i if i % 16 > 13 else (i + 2 if i + 2 < 31 else -1) for i in lanes],
        [3] * 31,
        [sum(lanes)] * 31,
        [sum(1 << j for j in lanes if j % 4 == i % 4) for i in lanes],
        [10 + 1 * 4 - 1 * 3 - 128 * 2 + 127 * 1 + 0x55114400] * 31,
    ], rows

    for seed in range(3):
        library.shim_set_seed(ctypes.c_ulonglong(seed))
        y = Buffer(library, "i", [0] * 100)
        launch(library, "test_chain", 100, 64, 0, y)
        assert y.read() == list(range(1, 101))

    def run_overlap(wrong):
        buffers = [Buffer(library, "f", range(64)), Buffer(library, "f", 64)]
        for step in range(7):
            launch(library, "test_overlap", 1, 64, 0, buffers[step % 2], buffers[1 - step % 2], wrong, overlap=True)
        library.cuCtxSynchronize()
        return buffers[1]

    values = [float(i) for i in range(64)]
    for _ in range(7):
        values = [values[i] + values[(i + 1) % 64] for i in range(64)]
    assert run_overlap(0).read() == values
    assert run_overlap(1).read() != values
    assert run_overlap(2).read() != values
    print("overlap: both mistakes seen")

    codes = list(range(65536))
    x, y, wide = Buffer(library, "H", codes), Buffer(library, "H", 65536), Buffer(library, "f", 65536)
    launch(library, "test_formats", 256, 256, 0, x, y, wide, 65536)
    for code, back, value in zip(codes, y.read(), wide.read()):
        number = struct.unpack("<e", struct.pack("<H", code))[0]
        assert (value == number and back == code) or (number != number and value != value and back == 0x7fff), hex(code)

    for wrong in range(1, 7):
        done = subprocess.run([sys.executable, __file__, "--abort", str(wrong), folder], capture_output=True, text=True)
        print(f"abort {wrong}: {done.stderr.strip().splitlines()[-1] if done.stderr else 'no message'}")
        assert done.returncode < 0 and "test_abort" in done.stderr, done
    print("ok")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--abort"]:
        device = load(sys.argv[3])
        launch(device, "test_abort", 1, 64, 128, Buffer(device, "f", 10), 10, int(sys.argv[2]))
        sys.exit(0)
    with tempfile.TemporaryDirectory() as temporary:
        out = sys.argv[1] if len(sys.argv) > 1 else temporary
        subprocess.run([str(HERE / "build.sh"), out, str(HERE / "self_test.cu")], check=True)
        os.environ.pop("SHIM_SEED", None)
        main(out)
