#!/usr/bin/env bash
# Makes kld.json: what an independent evaluator (PyTorch and gguf-py; nothing of Tamborim) finds between the demo model and
# its quantized files. Run it anew when a format's bytes change on purpose.
#
# usage: tests/goldens/make_kld.sh TAMBORIM PYTHON PEERS
#   TAMBORIM  the built command          PYTHON  with torch, gguf, numpy, sentencepiece, zstandard
#   PEERS     folder with make_tokens.py and kld.py
set -euo pipefail
tamborim=$1 python=$2 peers=$3
here=$(cd "$(dirname "$0")" && pwd)
demo=$here/../../demo
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$python" -c 'import json, sys; print(json.dumps({"text": open(sys.argv[1], encoding="utf-8").read()}))' \
    "$demo/page.txt" > "$work/page.jsonl"
"$python" "$peers/make_tokens.py" "$demo/samba-7m/tokenizer.model" "$work/page.jsonl" "$work/tokens.json" --max-tokens 2049
for type in q8_0 q4_k; do
    "$tamborim" quantize "$demo/samba-7m/checkpoint.pth" --to $type -o "$work/$type.gguf"
    "$python" "$peers/kld.py" "$demo/samba-7m" "$work/$type.gguf" "$work/tokens.json" --tokens 2048 --ctx 512 > "$work/$type.json"
done
"$python" - "$work" > "$here/kld.json" <<'PY'
import hashlib, json, sys
from gguf import GGUFReader
work = sys.argv[1]
out = {
    "made_by": "tests/goldens/make_kld.sh: peers/make_tokens.py, then peers/kld.py --tokens 2048 --ctx 512",
    "text": "demo/page.txt",
    "context": 512,
    "candidates": {},
}
for name in ("q8_0", "q4_k"):
    r = json.load(open(f"{work}/{name}.json"))
    data = hashlib.sha256()
    for t in GGUFReader(f"{work}/{name}.gguf").tensors:
        data.update(t.data.tobytes())
    out["candidates"][name] = {
        "tensors_sha256": data.hexdigest(),
        **{k: r[k] for k in ("positions", "kld_mean", "kld_stderr", "kld_median", "kld_p99", "kld_max", "top1", "ppl_a", "ppl_b", "ppl_ratio")},
    }
out["tokens"] = json.load(open(f"{work}/tokens.json"))["tokens"]
text = json.dumps(out, indent=1)
head, tokens = text.split('"tokens": [')
print(head + '"tokens": [' + ", ".join(tokens.split("]")[0].replace(",", " ").split()) + "]\n}")
PY
