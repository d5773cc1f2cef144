#!/usr/bin/env python3
"""Compiles every *.cu beside this file into ptx/NAME.ptx.gz and cubin/NAME.sm_90a.cubin.gz, lists the kernels and their
parameters in KERNELS, and the hashes of everything in MANIFEST.

Needs no CUDA toolkit, GPU or host compiler, only the NVRTC library of one pinned pip package:

    python3 -m venv .venv-nvrtc && .venv-nvrtc/bin/pip install nvidia-cuda-nvrtc-cu12==12.9.86
    kernels/cuda/build.py                       # finds .venv* of the repository, $VIRTUAL_ENV, this Python's packages
    kernels/cuda/build.py --check               # recompiles into memory, exit 1 if a checked-in file is stale
    kernels/cuda/build.py --ptxas PATH -v       # assembles each PTX for all chips, fails on spills and stack frames
    kernels/cuda/build.py --only scan --out /tmp/x --define TILE=64     # a variant for tuning, outside the repository

The output depends on the sources and the compiler alone, so a rebuild gives the same bytes (before compression); MANIFEST has its hash.
"""

import argparse
import ctypes
import functools
import gzip
import hashlib
import os
import re
import site
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
COMPILER = "12.9.86"
OPTIONS = ["--std=c++17", "--extra-device-vectorization", "--fmad=true"]
# PTX for the oldest chip supported, assembled by the driver of any later one; a cubin for Hopper with its own
# instructions.
TARGETS = {"ptx": "compute_80", "cubin": "sm_90a"}
# The compiler stamps its own PTX version, which would ask for driver 575; 8.0 is what the oldest driver supported, 525,
# knows.
PTX_VERSION = b"8.0"
CHIPS = ["sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"]


class Nvrtc:
    def __init__(self, path):
        for builtins in Path(path).parent.glob("libnvrtc-builtins.so*"):
            ctypes.CDLL(str(builtins), ctypes.RTLD_GLOBAL)
        self.library = ctypes.CDLL(str(path))
        self.library.nvrtcGetErrorString.restype = ctypes.c_char_p

    def call(self, name, *args):
        code = getattr(self.library, name)(*args)
        if code != 0:
            raise RuntimeError(f"{name}: {self.library.nvrtcGetErrorString(code).decode()}")

    def read(self, program, kind):
        """One of the byte results of a program: PTX, CUBIN or ProgramLog."""
        size = ctypes.c_size_t()
        self.call(f"nvrtcGet{kind}Size", program, ctypes.byref(size))
        data = ctypes.create_string_buffer(size.value)
        self.call(f"nvrtcGet{kind}", program, data)
        return data.raw

    def compile(self, name, source, headers, kind, defines):
        """Returns (output or None, log)."""
        options = [f"--gpu-architecture={TARGETS[kind]}", *OPTIONS, *(f"--define-macro={d}" for d in defines)]
        if kind == "cubin":
            options.append("--ptxas-options=-v")
        program = ctypes.c_void_p()
        strings = lambda items: (ctypes.c_char_p * len(items))(*items)
        self.call("nvrtcCreateProgram", ctypes.byref(program), source, f"{name}.cu".encode(), len(headers),
                  strings(list(headers.values())), strings([h.encode() for h in headers]))
        try:
            code = self.library.nvrtcCompileProgram(program, len(options), strings([o.encode() for o in options]))
            log = self.read(program, "ProgramLog").rstrip(b"\0\n").decode(errors="replace")
            if code != 0:
                return None, log or self.library.nvrtcGetErrorString(code).decode()
            output = self.read(program, "CUBIN" if kind == "cubin" else "PTX")
            return (output.rstrip(b"\0") if kind == "ptx" else output), log
        finally:
            self.library.nvrtcDestroyProgram(ctypes.byref(program))


load = functools.lru_cache(Nvrtc)


def compile_one(job):
    """Runs in a worker process."""
    path, (name, source, headers, kind, defines) = job
    output, log = load(path).compile(name, source, headers, kind, defines)
    if output is not None and kind == "ptx":
        output = re.sub(rb"^\.version .*$", b".version " + PTX_VERSION, output, count=1, flags=re.M)
        # Remarks of PTX 8.3 on loads of which not all bytes are used; nothing but tools that look for bad reads heeds them.
        output = re.sub(rb'^\s*\.pragma "used_bytes_mask .*\n', b"", output, flags=re.M)
    return output, log


def find_nvrtc(venv):
    if venv:
        roots = sorted(Path(venv).glob("lib/python3*/site-packages"))
    else:
        folders = [Path(os.environ["VIRTUAL_ENV"])] if "VIRTUAL_ENV" in os.environ else []
        folders += sorted(p for p in HERE.parent.parent.glob(".venv*"))
        roots = [root for folder in folders for root in sorted(folder.glob("lib/python3*/site-packages"))]
        roots += [Path(p) for p in [*site.getsitepackages(), site.getusersitepackages()]]
    for root in roots:
        path = root / "nvidia/cuda_nvrtc/lib/libnvrtc.so.12"
        if path.is_file():
            return path
    sys.exit(f"error: libnvrtc.so.12 not found; pip install nvidia-cuda-nvrtc-cu12=={COMPILER} into a virtual environment and name it "
             "with --venv, or give the library with --nvrtc")


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def write(path, data):
    """Replaces the file whole, and not at all where it holds the same bytes."""
    if path.is_file() and path.read_bytes() == data:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, suffix=".tmp", delete=False) as f:
        f.write(data)
    os.chmod(f.name, 0o644)
    os.replace(f.name, path)


def manifest(hashes):
    """Hashes of sources, and of outputs before compression."""
    lines = ["# Sources and what they compile to; written by build.py.", f"# compiler: NVRTC {COMPILER}",
             f"# options: {' '.join(OPTIONS)}; PTX {TARGETS['ptx']}, version {PTX_VERSION.decode()}; cubin {TARGETS['cubin']}"]
    order = lambda name: (not name.endswith(".cuh"), "/" in name, name)
    return "\n".join(lines + [f"{hashes[name]}  {name}" for name in sorted(hashes, key=order)] + [""]).encode()


def pack(data):
    return gzip.compress(data, 9, mtime=0)


def unpack(path):
    try:
        return gzip.decompress(path.read_bytes())
    except (OSError, EOFError):
        return b""


def parameters(name, ptx):
    """Lines `file kernel bytes,bytes,...`: the sizes of a kernel's parameters, in order."""
    sizes = lambda p: int(m[1]) if (m := re.search(rb"\[(\d+)\]", p)) else int(re.search(rb"\.param\s+\.\w(\d+)", p)[1]) // 8
    lines = []
    for kernel, list_ in re.findall(rb"\.entry\s+(\w+)\s*\(([^)]*)\)", ptx):
        found = [str(sizes(p)) for p in list_.split(b",") if b".param" in p]
        lines.append(f"{name} {kernel.decode()} {','.join(found)}")
    return lines


def read_manifest(path):
    if not path.is_file():
        return {}
    return dict(reversed(line.split()) for line in path.read_text().splitlines() if line and not line.startswith("#"))


def resources(log):
    """[(kernel, registers, static shared bytes, stack and spill bytes)] from what `ptxas -v` says."""
    rows = []
    for part in re.split(r"Compiling entry function '", log)[1:]:
        number = lambda pattern: sum(int(n) for n in re.findall(pattern, part))
        rows.append((part[:part.index("'")], number(r"Used (\d+) registers"), number(r"(\d+) bytes smem"),
                     number(r"(\d+) bytes (?:stack frame|spill stores|spill loads)")))
    return rows


def assemble(ptxas, items):
    """{(kernel, chip): (registers, shared, spill)} over all chips, and what went wrong."""
    def run(item):
        name, ptx, chip = item
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, f"{name}.ptx")
            source.write_bytes(ptx)
            done = subprocess.run([ptxas, "-v", f"-arch={chip}", str(source), "-o", str(Path(folder, "out"))],
                                  capture_output=True, text=True)
        return name, chip, done.returncode, done.stdout + done.stderr
    table, problems = {}, []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for name, chip, code, log in pool.map(run, [(name, ptx, chip) for name, ptx in items for chip in CHIPS]):
            if code != 0:
                problems.append(f"{name}.ptx does not assemble for {chip}: {log.strip()}")
            table.update(((kernel, chip), rest) for kernel, *rest in resources(log))
    return table, problems


def show(table):
    kernels = list(dict.fromkeys(kernel for kernel, _ in table))
    chips = list(dict.fromkeys(chip for _, chip in table))
    width = max((len(k) for k in kernels), default=0)
    print(f"{'registers':{width}} " + "".join(f"{c:>8}" for c in chips) + "  static shared")
    for kernel in kernels:
        cells = [table.get((kernel, chip)) for chip in chips]
        shared = max(c[1] for c in cells if c)
        print(f"{kernel:{width}} " + "".join(f"{c[0] if c else '-':>8}" for c in cells) + f"  {shared or ''}".rstrip())


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--nvrtc", metavar="PATH", help="libnvrtc.so.12")
    arguments.add_argument("--venv", metavar="DIR", help="virtual environment with nvidia-cuda-nvrtc-cu12")
    arguments.add_argument("--check", action="store_true", help="compare with the files on disk instead of writing them")
    arguments.add_argument("--only", nargs="+", metavar="NAME", help="these kernels alone")
    arguments.add_argument("--define", "-D", action="append", default=[], metavar="X=Y", help="a macro; needs --out")
    arguments.add_argument("--out", metavar="DIR", type=Path, default=HERE, help="where ptx/, cubin/ and MANIFEST go")
    arguments.add_argument("--ptxas", metavar="PATH", help=f"assemble each PTX for {', '.join(CHIPS)}")
    arguments.add_argument("--verbose", "-v", action="store_true", help="print registers and static shared memory of each kernel")
    args = arguments.parse_args()
    if args.define and args.out.resolve() == HERE:
        arguments.error("--define needs --out: the files checked in come from the sources as they are")

    headers = {path.name: path.read_bytes() for path in sorted(HERE.glob("*.cuh"))}
    sources = {path.stem: path.read_bytes() for path in sorted(HERE.glob("*.cu"))}
    chosen = sorted({Path(n).stem for n in args.only}) if args.only else list(sources)
    for name in chosen:
        if name not in sources:
            arguments.error(f"no {name}.cu in {HERE}")

    library = Path(args.nvrtc) if args.nvrtc else find_nvrtc(args.venv)
    problems, outputs, table = [], {}, {}
    jobs = [(name, sources[name], headers, kind, args.define) for name in chosen for kind in TARGETS]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        probe = pool.submit(compile_one, (library, ("probe", b"", {}, "ptx", []))).result()[0]
        version = re.search(rb"release [\d.]+, V([\d.]+)", probe)
        if not version or version[1].decode() != COMPILER:
            sys.exit(f"error: {library} is NVRTC {version[1].decode() if version else '?'}; the files checked in come from {COMPILER}")
        for (name, _, _, kind, _), (output, log) in zip(jobs, pool.map(compile_one, [(library, job) for job in jobs])):
            if output is None:
                problems.append(f"{name}.cu does not compile for {TARGETS[kind]}:\n{log}")
                continue
            if kind == "cubin":
                table.update(((kernel, TARGETS[kind]), rest) for kernel, *rest in resources(log))
            elif log:
                print(log, file=sys.stderr)
            outputs[f"ptx/{name}.ptx.gz" if kind == "ptx" else f"cubin/{name}.{TARGETS[kind]}.cubin.gz"] = output

    whole = [n for n in chosen if f"ptx/{n}.ptx.gz" in outputs and f"cubin/{n}.{TARGETS['cubin']}.cubin.gz" in outputs]
    outputs = {name: data for name, data in outputs.items() if name.split("/")[1].split(".")[0] in whole}

    if args.ptxas:
        more, failed = assemble(args.ptxas, [(n.split("/")[1].split(".")[0], data) for n, data in outputs.items() if n.startswith("ptx/")])
        table = {**more, **table}
        problems += failed
    problems += [f"{kernel} has {spill} bytes of stack frame and spills on {chip}"
                 for (kernel, chip), (_, _, spill) in table.items() if spill]
    if args.verbose:
        show(table)

    hashes = {name: sha256(data) for name, data in headers.items()}
    if args.only:
        before = read_manifest(args.out / "MANIFEST")
        if {n: h for n, h in before.items() if n.endswith(".cuh")} == hashes:  # else the other outputs come from other headers
            hashes = before
    hashes.update((f"{name}.cu", sha256(sources[name])) for name in whole)
    hashes.update((name, sha256(data)) for name, data in outputs.items())
    listing = manifest(hashes)
    known = {n: args.out / f"ptx/{n}.ptx.gz" for n in sources}
    ptx = {n: outputs.get(f"ptx/{n}.ptx.gz") or (unpack(path) if path.is_file() else b"") for n, path in known.items()}
    kernels = "".join(line + "\n" for n in sorted(ptx) for line in sorted(parameters(n, ptx[n]))).encode()

    present = {str(p.relative_to(args.out)) for pattern in ("ptx/*.gz", "cubin/*.gz") for p in args.out.glob(pattern)}
    orphans = sorted(n for n in present if n.split("/")[1].split(".")[0] not in sources) if not args.only else []
    if args.check:
        for name, data in outputs.items():
            path = args.out / name
            if not path.is_file():
                problems.append(f"missing: {name}")
            elif unpack(path) != data:
                problems.append(f"stale: {name} is not what {name.split('/')[1].split('.')[0]}.cu compiles to")
        problems += [f"orphan: {name} has no source" for name in orphans]
        if not (args.out / "MANIFEST").is_file() or (args.out / "MANIFEST").read_bytes() != listing:
            problems.append("stale: MANIFEST")
        if not (args.out / "KERNELS").is_file() or (args.out / "KERNELS").read_bytes() != kernels:
            problems.append("stale: KERNELS")
    else:
        for name, data in outputs.items():
            if not (args.out / name).is_file() or unpack(args.out / name) != data:
                write(args.out / name, pack(data))
        for name in orphans:
            (args.out / name).unlink(missing_ok=True)
        write(args.out / "KERNELS", kernels)
        write(args.out / "MANIFEST", listing)

    for problem in problems:
        print(problem, file=sys.stderr)
    done = "up to date" if args.check else "written"
    print(f"{len(whole)} of {len(chosen)} files compiled" + ("" if problems else f", {done}"))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
