"""Times what Tamborim's CUDA kernels are measured against, on this machine's GPU. JSON on standard output, progress on
standard error.

usage: peers.py [--folder target/peers] [--only NAME ...] [--seconds 100]
Needs torch with CUDA and, for the two peers that are compiled here, nvcc and what prepare.sh puts into the folder.

How: every kernel runs from a CUDA graph that holds enough calls to last a millisecond, so that launching costs what it
costs inside a graph and no more. The calls rotate over buffers of 256 MB together, several times the L2 cache, so that
every call finds its data in memory. The graph is replayed several times, each replay between two events and after a
pause, because the power limit slows matrix products by a quarter once they have run for some ten milliseconds; the
median counts. All data is random normal. Peers whose binding or packing is ours are checked against float64 first.
"""
import argparse
import ctypes
import glob
import importlib.util
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
COLD = 256e6  # bytes that the buffers of one measurement have together, at least
# Samba-1.3B: width, inner width, states, rank of dt, heads x head size, width of the MLP, window, vocabulary
WIDTH, INNER, STATES, RANK, HEADS, HEAD, MLP, WINDOW, VOCAB = 2304, 4608, 16, 144, 18, 128, 6144, 2048, 32000
TOKENS = 4096
# Every linear map of the whole prefill, out x in, and their order: 9 Mamba and 9 attention layers, each with its MLP.
# The head, for the last token only, is a matrix times a vector.
LINEAR = {
    "in_proj": (2 * INNER, WIDTH), "x_proj": (RANK + 2 * STATES, INNER), "dt_proj": (INNER, RANK),
    "out_proj": (WIDTH, INNER), "qkv": (3 * WIDTH, WIDTH), "o_proj": (WIDTH, WIDTH), "gate+up": (2 * MLP, WIDTH),
    "down": (WIDTH, MLP),
}
ORDER = 9 * ["in_proj", "x_proj", "dt_proj", "out_proj", "gate+up", "down", "qkv", "o_proj", "gate+up", "down"]
VECTOR = [(2 * MLP, WIDTH), (WIDTH, MLP), (VOCAB, WIDTH), (2 * INNER, WIDTH)]


class Build:
    """A peer's CUDA sources with a binding from this folder, compiled while others are being measured."""

    def __init__(self, package, binding, sources, flags=()):
        self.error, self.process = f"no sources of {package}: scripts/gpu/prepare.sh gets them", None
        if not sources:
            return
        self.library = os.path.join(sources, binding + ".so")
        torch = os.path.dirname(importlib.util.find_spec("torch").origin)
        symbols = [f"-U__CUDA_NO_{t}_{what}__" for t in ("HALF", "BFLOAT16", "BFLOAT162")
                   for what in ("OPERATORS", "CONVERSIONS")]
        self.process = subprocess.Popen(
            [shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc", "-O3", "-std=c++17", "-arch=sm_90", "-shared", "-w",
             "-Xcompiler", "-fPIC", "--use_fast_math", "--expt-relaxed-constexpr", "--expt-extended-lambda", *symbols,
             *flags, f"-I{sources}", f"-I{torch}/include", f"-L{torch}/lib", "-lc10", "-lc10_cuda",
             os.path.join(HERE, binding + ".cu"), "-o", self.library],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def load(self):
        if self.process:
            self.error = self.process.communicate()[0].strip()[-600:]
        if not self.process or self.process.returncode:
            raise RuntimeError(self.error)
        return ctypes.CDLL(self.library)


def start_builds(folder):
    """The builds begin before torch is imported: both take seconds."""
    scan, conv = (max(glob.glob(os.path.join(os.path.abspath(folder), p)), default=None)
                  for p in ("mamba_ssm-*/csrc/selective_scan", "causal_conv1d-*/csrc"))
    flags = []
    if conv:
        # Without its explicit instances: all types, all widths.
        short = os.path.join(conv, "forward_without_instances.cu")
        with open(os.path.join(conv, "causal_conv1d_fwd.cu")) as source, open(short, "w") as out:
            out.write(source.read().split("\ntemplate void ")[0])
        flags = [f'-DCAUSAL_CONV1D_FWD="{short}"']
    return {"mamba-ssm": Build("mamba-ssm", "mamba_ssm", scan),
            "causal-conv1d": Build("causal-conv1d", "causal_conv1d", conv, flags)}


def normal(*shape, scale=1.0, dtype=None):
    return (torch.randn(*shape, device="cuda") * scale).to(dtype or torch.bfloat16)


def empty(*shape, dtype=None):
    return torch.full(shape, math.nan, device="cuda", dtype=dtype or torch.bfloat16)


def call(function, sizes, *tensors):
    """A function of a compiled peer: sizes, pointers, the current stream."""
    stream = torch.cuda.current_stream().cuda_stream
    function(*map(ctypes.c_int, sizes), *(ctypes.c_void_p(t.data_ptr()) for t in tensors), ctypes.c_void_p(stream))


def check(what, out, reference, limit):
    error = ((out.double() - reference).norm() / reference.norm()).item()
    if not error < limit:
        raise RuntimeError(f"{what}: relative error {error:.2e}, limit {limit}")


def timed(run, times):
    """Microseconds of each of several runs, each after a pause."""
    each = []
    for _ in range(times):
        torch.cuda.synchronize()
        time.sleep(0.02)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(200_000)  # cycles: the GPU waits until the whole run is queued
        begin.record()
        run()
        end.record()
        torch.cuda.synchronize()
        each.append(1e3 * begin.elapsed_time(end))
    return each


def measure(make, size, graph=True):
    """(median, least, most) microseconds of one call. `make()` gives a call with buffers of its own, `size` bytes."""
    calls = [make() for _ in range(max(1, math.ceil(COLD / size)))]

    def all_calls():
        for c in calls:
            c()

    side, run, passes = torch.cuda.Stream(), all_calls, 1
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        all_calls()
        once = min(timed(all_calls, 3))
    torch.cuda.current_stream().wait_stream(side)
    if graph:
        captured, passes = torch.cuda.CUDAGraph(), max(1, round(1000 / once))
        with torch.cuda.graph(captured):
            for _ in range(passes):
                all_calls()
        run = captured.replay
    timed(run, 2)
    each = sorted(t / (passes * len(calls)) for t in timed(run, 15))
    return statistics.median(each), each[0], each[-1]


class Table:
    """The measured rows, each printed as it comes."""

    def __init__(self):
        self.rows = []

    def put(self, name, shape, times, size=None, flops=None, **more):
        median, least, most = times
        row = {"name": name, "shape": shape, "median_us": median, "least_us": least, "most_us": most}
        text = f"{name:30} {shape:24} {median:10.2f} us"
        if size:
            row.update(bytes=size, gb_s=size / median / 1e3)
            text += f" {row['gb_s']:7.0f} GB/s"
        if flops:
            row.update(flops=flops, tflop_s=flops / median / 1e6)
            text += f" {row['tflop_s']:6.1f} TFLOP/s"
        self.rows.append({**row, **more})
        print(text, file=sys.stderr, flush=True)


# The peers: each measures its rows.

def ceilings(table, _):
    n = 2 << 30
    a, b = normal(n // 2), empty(n // 2)
    # Not as a node of a graph, where it has two thirds of the speed.
    table.put("copy", "2 GiB", measure(lambda: lambda: b.copy_(a), 2 * n, graph=False), size=2 * n)
    n = 8192
    table.put("torch.mm", f"{n}x{n}x{n}", measure(*linear(n, n, n)), flops=2 * n ** 3)


def linear(n, k, m):
    """What measure() takes, for m rows through a linear map."""
    def make():
        x, w, y = normal(m, k), normal(n, k), empty(m, n)
        return lambda: torch.mm(x, w.t(), out=y)

    return make, 2 * (m * k + n * k + m * n)


def matrix_vector(n, k):
    def make():
        w, x, y = normal(n, k), normal(k), empty(n)
        return lambda: torch.mv(w, x, out=y)

    return make, 2 * n * k


def prefill_gemms(table, _):
    for name, (n, k) in LINEAR.items():
        times = measure(*linear(n, k, TOKENS))
        table.put(f"torch.mm {name}", f"{TOKENS}x{n}x{k}", times, flops=2 * TOKENS * n * k, count=ORDER.count(name))

    def make():
        """All of them in their order, each with a weight of its own, and the head."""
        places = {name: (normal(TOKENS, k), empty(TOKENS, n)) for name, (n, k) in LINEAR.items()}
        calls = [(places[name][0], normal(*LINEAR[name]).t(), places[name][1]) for name in ORDER]
        head = matrix_vector(VOCAB, WIDTH)[0]()
        return lambda: [torch.mm(x, w, out=y) for x, w, y in calls] + [head()]

    flops = 2 * TOKENS * sum(n * k for n, k in map(LINEAR.get, ORDER))
    table.put("GEMMs of the prefill", f"{TOKENS} tokens", measure(make, COLD), flops=flops)


def torch_mv(table, _):
    for n, k in VECTOR:
        make, size = matrix_vector(n, k)
        table.put("torch.mv bf16", f"{n}x{k}", measure(make, size), size=size)


def tinygemm(table, _):
    """PyTorch's 4-bit weights times bfloat16: groups of 32 or 128 weights with a bfloat16 scale and zero point each."""

    def packed(n, k, group):
        codes = torch.randint(0, 16, (n, k), device="cuda", dtype=torch.uint8)
        pairs = codes[:, ::2] << 4 | codes[:, 1::2]
        return codes, normal(k // group, n, 2, scale=0.1), torch._convert_weight_to_int4pack(pairs, 8)

    for group in (32, 128):
        codes, scales, weight = packed(256, 512, group)
        scale, zero = (scales[..., i].double().t().repeat_interleave(group, 1) for i in (0, 1))
        x = normal(1, 512)
        out = torch._weight_int4pack_mm(x, weight, group, scales)
        check("tinygemm", out, x.double() @ ((codes.double() - 8) * scale + zero).t(), 2e-2)
        for n, k in VECTOR:
            def make():
                _, scales, weight = packed(n, k, group)
                x = normal(1, k)
                return lambda: torch._weight_int4pack_mm(x, weight, group, scales)

            size = n * k // 2 + 4 * n * k // group
            table.put(f"tinygemm int4 g{group}", f"{n}x{k}", measure(make, size), size=size)


def selective_scan(table, builds):
    function = builds["mamba-ssm"].load().mamba_ssm_scan

    def inputs(channels, length):
        a = -torch.arange(1, STATES + 1, device="cuda").float().repeat(channels, 1)
        return [normal(channels, length), normal(channels, length, scale=0.5), a, normal(STATES, length),
                normal(STATES, length), normal(channels, dtype=torch.float32), normal(channels, length),
                normal(channels, dtype=torch.float32) - 4]

    def outputs(channels, length):
        ends = empty(channels, length // 2048, 2 * STATES, dtype=torch.float32)
        return [empty(channels, length), empty(channels, length), ends]

    given, results = inputs(32, 4096), outputs(32, 4096)
    call(function, (32, 4096, STATES), *given, *results)
    u, dt, a, b, c, skip, z, bias = (t.double() for t in given)
    dt, state, reference = functional.softplus(dt + bias[:, None]), torch.zeros_like(a), torch.empty_like(u)
    for t in range(4096):
        state = torch.exp(dt[:, t, None] * a) * state + (dt[:, t] * u[:, t])[:, None] * b[:, t]
        reference[:, t] = state @ c[:, t]
    reference = (reference + skip[:, None] * u) * z * torch.sigmoid(z)
    check("mamba-ssm", results[1], reference, 5e-3)
    for length in (TOKENS, 32768):
        def make():
            given, results = inputs(INNER, length), outputs(INNER, length)
            return lambda: call(function, (INNER, length, STATES), *given, *results)

        # Of u, delta, z and the gated output, as if each went through memory once; B and C are small.
        size = 2 * length * (4 * INNER + 2 * STATES)
        table.put("mamba-ssm selective scan bf16", f"L {length} D {INNER}", measure(make, size), size=size)


def causal_conv1d(table, builds):
    library = builds["causal-conv1d"].load()
    for length in (TOKENS, 32768):
        for layout, function in (("D L", library.causal_conv1d), ("L D", library.causal_conv1d_rows)):
            shape = (INNER, length) if layout == "D L" else (length, INNER)
            inputs = lambda: (normal(*shape), normal(INNER, 4), normal(INNER), empty(*shape))

            def make():
                tensors = inputs()
                return lambda: call(function, (INNER, length), *tensors)

            x, w, bias, y = tensors = inputs()
            call(function, (INNER, length), *tensors)
            x, y = (x, y) if layout == "D L" else (x.t(), y.t())
            x, w, bias = (t[:64].double() for t in (x, w, bias))
            want = functional.silu(functional.conv1d(functional.pad(x, (3, 0)), w[:, None], bias, groups=64))
            check("causal-conv1d", y[:64], want, 5e-3)
            size = 4 * length * INNER
            table.put("causal-conv1d bf16 " + layout, f"L {length} D {INNER}", measure(make, size), size=size)


def attention(table, name, shape, run, pairs):
    heads, length, head = shape

    def make():
        q, k, v = (normal(1, *shape) for _ in range(3))
        return lambda: run(q, k, v)

    times = measure(make, 8 * heads * length * head)
    table.put(name, f"L {length} {heads}x{head}", times, flops=4 * heads * head * pairs)


def flex_attention(table, _):
    """Compiled for each shape, with PyTorch's own choice of blocks."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention as flex
    seen = lambda b, h, q, k: (q >= k) & (q - k < WINDOW)
    compiled = torch.compile(flex, dynamic=False)
    for heads, head in ((HEADS, HEAD), (2 * HEADS, HEAD // 2)):
        for length in (TOKENS, 32768):
            mask = create_block_mask(seen, None, None, length, length, device="cuda")
            run = lambda q, k, v: compiled(q, k, v, block_mask=mask)
            if length == TOKENS:
                q, k, v = (normal(1, heads, length, head) for _ in range(3))
                at = torch.arange(length, device="cuda")
                scores = (q[0, 0].double() @ k[0, 0].double().t()) / math.sqrt(head)
                scores = scores.masked_fill(~seen(0, 0, at[:, None], at), -math.inf)
                check("flex_attention", run(q, k, v)[0, 0], scores.softmax(-1) @ v[0, 0].double(), 5e-3)
            pairs = sum(min(t + 1, WINDOW) for t in range(length))
            attention(table, f"flex_attention window {WINDOW}", (heads, length, head), run, pairs)


def flash(table, _):
    from torch.nn.attention import SDPBackend, sdpa_kernel
    run = lambda q, k, v: functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    for length in (TOKENS, 32768):
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            attention(table, "SDPA flash causal", (HEADS, length, HEAD), run, length * (length + 1) // 2)


PEERS = {
    "ceilings": ceilings, "prefill": prefill_gemms, "mv": torch_mv, "tinygemm": tinygemm, "scan": selective_scan,
    "conv1d": causal_conv1d, "flash": flash, "flex": flex_attention,
}


def main():
    global torch, functional
    began = time.monotonic()
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--folder", default="target/peers", help="where prepare.sh puts the sources; built in there too")
    ap.add_argument("--only", nargs="+", choices=PEERS, default=list(PEERS))
    ap.add_argument("--seconds", type=float, default=100, help="begin no peer after this time")
    a = ap.parse_args()
    builds = start_builds(a.folder) if {"scan", "conv1d"} & set(a.only) else {}
    import torch
    from torch.nn import functional
    torch.manual_seed(time.time_ns() & 0xffffffff)
    timed(lambda n=normal(4096, 4096): n @ n, 10)  # the clocks rise
    table, seconds, errors = Table(), {"start": time.monotonic() - began}, {}
    for name in a.only:
        start = time.monotonic()
        try:
            if start - began > a.seconds:
                raise RuntimeError(f"not begun: {a.seconds:.0f} seconds were over")
            with torch.no_grad():
                PEERS[name](table, builds)
        except Exception as e:  # one peer's failure costs its rows alone
            errors[name] = " ".join(f"{type(e).__name__}: {e}".split())[:600]
            print(f"{name}: {errors[name]}", file=sys.stderr, flush=True)
        torch.cuda.empty_cache()
        seconds[name] = time.monotonic() - start
    machine = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "cuda": torch.version.cuda}
    json.dump({"machine": machine, "rows": table.rows, "errors": errors, "seconds": seconds}, sys.stdout, indent=1)
    print()
    print(" ".join(f"{k} {v:.1f} s" for k, v in seconds.items()), file=sys.stderr)
    return bool(errors)


if __name__ == "__main__":
    sys.exit(main())
