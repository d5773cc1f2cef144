"""The last part of run.sh: what its parts printed, as one table and one JSON document.

usage: table.py FOLDER RESULTS.json
FOLDER has one file for each part: kernels, peers, bench-NAME, verify-DEVICE (JSON), tests, memcheck, racecheck (text);
NAME.failed says what went wrong with one. What is missing makes a dash.
"""
import json
import math
import os
import re
import sys

TOKENS = 4096


def main():
    folder, results = sys.argv[1:]
    parts = {}
    for name in sorted(os.listdir(folder)):
        if re.match(r"(kernels|peers|bench-[\w-]+|verify-\w+)$", name):
            parts[name] = read_json(os.path.join(folder, name))
    texts = {n: read(os.path.join(folder, n)) for n in ("tests", "memcheck", "racecheck")}
    names = sorted(os.listdir(folder))
    failed = {n[:-7]: read(os.path.join(folder, n)).strip() for n in names if n.endswith(".failed")}
    table = rows(Numbers(parts))
    with open(results, "w") as out:
        json.dump({"table": [row.cells for row in table], "failed": failed, **parts}, out, indent=1)
    show(table)
    for name, text in texts.items():
        for line in re.findall(r"^(?:test result:|=+ \w+ SUMMARY:).*|^test .* FAILED$", text or "", re.M):
            print(f"{name}: {line.strip('= ')}")
    for device in ("cuda", "cpu"):
        report = parts.get("verify-" + device)
        if report:
            print(f"verify on {device}: {report['positions']} positions in windows of {report['context']}, mean KLD "
                  f"{report['kld']['mean']:.6g}, largest logit difference {report['max_abs_logit_difference']:.6g}, "
                  f"{report['seconds']:.1f} s")
            for mode in report["noise_floor"]:
                print(f"    runtime's noise, {mode['between'].replace('_', ' ')}: mean KLD {mode['kld_mean']:.6g}, largest {mode['kld_max']:.4g}, "
                      f"same next token {mode['top1_agreement']:.2%}")
    for name, error in ((parts.get("peers") or {}).get("errors") or {}).items():
        print(f"peer {name}: {error[:200]}")
    for name, text in failed.items():
        print(f"{name}: {text}")


def read(path):
    try:
        with open(path) as f:
            return f.read()
    except OSError:
        return None


def read_json(path):
    try:
        return json.loads(read(path))
    except ValueError:
        return None


class Numbers:
    """The measured figures by what they are of; NaN where there is none."""

    def __init__(self, parts):
        self.parts = parts
        # The faster of torch's and the driver's: what a share of it says must not depend on a slow copy.
        self.copy = pick(listed([parts.get("peers"), parts.get("kernels")]), "copy", "")[1]

    def peer(self, name, shape):
        return pick(listed(self.parts.get("peers")), name, shape)

    def ours(self, name, shape, without=r"$^"):
        return pick(listed(self.parts.get("kernels")), name, shape, without)

    def speed(self, part, what):
        """Tokens a second of `what` (prefill, decode) in one part's document."""
        return find_speed(self.parts.get("bench-" + part), what)


def listed(document):
    """Every object with a name and a time in a document, however it is nested."""
    if isinstance(document, list):
        return [row for item in document for row in listed(item)]
    if isinstance(document, dict):
        if "name" in document and "median_us" in document:
            return [document]
        return [row for item in document.values() for row in listed(item)]
    return []


def pick(rows, name, shape, without=r"$^"):
    """(microseconds, GB/s) of the fastest row of that name and shape."""
    best = math.nan, math.nan
    for row in rows:
        text, time = str(row["name"]).lower(), row["median_us"]
        if not re.search(name, text) or re.search(without, text) or not re.search(shape, str(row.get("shape", ""))):
            continue
        if time and not time >= best[0]:
            best = time, (row.get("bytes") or math.nan) / time / 1e3
    return best


def find_speed(document, what):
    if isinstance(document, list):
        found = (find_speed(item, what) for item in document)
        return next((x for x in found if not math.isnan(x)), math.nan)
    if not isinstance(document, dict):
        return math.nan
    if what in str(document.get("name", document.get("what", ""))):
        return number(document)
    for key, value in document.items():
        if what in key:
            x = float(value) if isinstance(value, (int, float)) else number(value)
            if not math.isnan(x):
                return x
    return find_speed(list(document.values()), what)


def number(value):
    if isinstance(value, dict):
        for key, x in value.items():
            if re.search(r"per_second|/s|per_s|tok_s", key) and isinstance(x, (int, float)):
                return float(x)
    return math.nan


class Row:
    """One line of the table: its figure is a ratio of times (`less` is better), a share or a rate."""

    def __init__(self, what, shape, ours, peer, figure, bar, ambition, form, less=False):
        self.figure, good = figure, (lambda limit: figure <= limit) if less else (lambda limit: figure >= limit)
        sign = "<= " if less else ">= "
        limit = lambda x: x if isinstance(x, str) else sign + form.format(x)
        if math.isnan(figure):
            met = "-"
        elif not isinstance(ambition, str) and good(ambition):
            met = "ambition"
        else:
            met = "bar" if good(bar) else "MISSED"
        text = "-" if math.isnan(figure) else form.format(figure)
        self.cells = [what, shape, ours, peer, text, limit(bar), limit(ambition), met]


def rows(n):
    us = lambda t: "-" if math.isnan(t) else f"{t:.1f} us"
    gb = lambda x: "-" if math.isnan(x) else f"{x:.0f} GB/s"
    rate = lambda x: "-" if math.isnan(x) else f"{x:.0f} tok/s"
    table = []

    def ratio(what, shape, ours, peer, bar, ambition):
        table.append(Row(what, shape, us(ours[0]), us(peer[0]), ours[0] / peer[0], bar, ambition, "{:.2f}", less=True))

    def share_of_copy(what, shape, ours, peer, bar, ambition):
        table.append(Row(what, shape, gb(ours[1]), gb(peer[1]), ours[1] / n.copy, bar, ambition, "{:.0%}"))

    other = r"step|decode|f32|exact"
    for length in (4096, 32768):
        at = number_in(length)
        ours, peer = n.ours("scan", at, other), n.peer("mamba-ssm", at)
        ratio("selective scan bf16 / mamba-ssm", f"L {length}", ours, peer, 0.6, 0.4)
    for length in (4096, 32768):
        at = number_in(length)
        ours, peer = n.ours("conv1d", at, other), n.peer("causal-conv1d", at)
        share_of_copy("causal conv1d bf16, of copy", f"L {length}", ours, peer, 0.85, "fused")
    for length in (4096, 32768):
        at = number_in(length) + r".*18\s*x\s*128"
        ours, peer = n.ours("attention|swa", at, other), n.peer("flex", at)
        ratio("window attention / flex_attention", f"L {length} 18x128", ours, peer, 1.25, 1.0)
    for shape in ("12288x2304", "2304x6144", "32000x2304", "9216x2304"):
        ours = n.ours("gemv.*bf16|bf16.*gemv", number_in(shape))
        ratio("GEMV bf16 / torch.mv", shape, ours, n.peer(r"torch\.mv", number_in(shape)), 1.0, 0.95)
    for kind in ("q4_0", "q4_k", "q8_0"):
        at = number_in("32000x2304")
        ours, peer = n.ours(f"gemv.*{kind}|{kind}.*gemv", at, "exact|f32"), n.peer("tinygemm.*g32", at)
        share_of_copy(f"GEMV {kind}, of copy", "32000x2304", ours, peer, 0.6, 0.8)
    gemms, whole = n.peer("gemms of the prefill", "")[0], 1e6 * TOKENS / n.speed("bf16", "prefill")
    table.append(Row("prefill bf16, its GEMMs alone of it", f"{TOKENS} tokens", us(whole), us(gemms), gemms / whole,
                     0.65, 0.8, "{:.0%}"))
    for part, bar, ambition in (("bf16", 1200, 1450), ("int4", 2500, 4000)):
        speed = n.speed(part, "decode")
        table.append(Row(f"decode {part}, tokens/s", "batch 1", rate(speed), "", speed, bar, ambition, "{:.0f}"))
    for what, at, bar in (("prefill", "128K", 3.73), ("decode", "at 64K", 3.64)):
        ours, peer = n.speed("samba-long", what), n.speed("attention-long", what)
        table.append(Row(f"Samba / full attention, {what}", at, rate(ours), rate(peer), ours / peer, bar, "more",
                         "{:.2f}"))
    return table


def number_in(text):
    """A pattern for a number or shape that stands alone: 4096 is not in 14096."""
    return rf"(?<!\d){text}(?!\d)"


def show(table):
    head = ["what", "shape", "ours", "peer", "figure", "bar", "ambition", "met"]
    lines = [head] + [row.cells for row in table]
    widths = [max(len(line[i]) for line in lines) for i in range(8)]
    for line in lines:
        print("  ".join(c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths))).rstrip())


if __name__ == "__main__":
    main()
