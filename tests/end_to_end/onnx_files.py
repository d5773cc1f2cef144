"""What ONNX's own tools, onnxruntime and onnxruntime-genai make of our files. Fails with a message, or prints nothing.

usage: onnx_files.py graph MODEL SCHEMA_FOLDER
       onnx_files.py logits MODEL TOKENS.json GOLDEN.safetensors
       onnx_files.py reference MODEL TOKENS.json GOLDEN.safetensors
       onnx_files.py quantized MODEL TOKENS.json LOGITS.safetensors
       onnx_files.py genai FOLDER PROMPT TEXT IDS.json
       onnx_files.py tokenizer FOLDER IDS.json
       onnx_files.py continue FOLDER TOKENS.json
"""

import json
import sys

import numpy as np

TOLERANCE = 1e-4


def tokens_of(path):
    with open(path) as file:
        return np.atleast_2d(np.array(json.load(file)["tokens"], np.int64))


def logits_of(path):
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        logits = file.get_tensor("logits")
    return logits if logits.ndim == 3 else logits[None]


def session(model, optimized=True):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run(session, tokens, pieces):
    """Logits of `tokens` (batch, tokens), given in pieces."""
    shape = lambda i: [{"batch_size": len(tokens), "past_sequence_length": 0}.get(d, d) for d in i.shape]
    past = {i.name: np.zeros(shape(i), np.float32) for i in session.get_inputs() if i.name.startswith("past")}
    names, rows, at = [o.name for o in session.get_outputs()], [], 0
    for piece in pieces:
        feed = {"input_ids": tokens[:, at : at + piece], **past}
        at += piece
        feed["attention_mask"] = np.ones((len(tokens), at), np.int64)
        out = dict(zip(names, session.run(None, feed)))
        rows.append(out["logits"])
        past = {"past_key_values" + n.removeprefix("present"): v for n, v in out.items() if n.startswith("present")}
    return np.concatenate(rows, 1)


def near(what, found, expected):
    difference = np.abs(found - expected).max()
    assert difference <= TOLERANCE, f"{what}: {difference}"


def graph(path, schemas):
    """The checker, with our operators' schemas known and unknown; types and shapes of everything."""
    import onnx

    onnx.checker.check_model(path, full_check=True)
    sys.path.insert(0, schemas)
    import ai_samba

    ai_samba.register()
    ai_samba.register()
    model = onnx.load(path)
    # Of ONNX Runtime's own operators onnx has no schemas.
    ours = {o.domain for o in model.opset_import} <= {"", "ai.samba"}
    onnx.checker.check_model(model, full_check=True, check_custom_domain=ours)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    for m in (model, inferred):
        known = {v.name: v for v in [*m.graph.value_info, *m.graph.input, *m.graph.output]}
        for node in m.graph.node:
            for name in filter(None, node.output):
                shape = known[name].type.tensor_type.shape
                assert all(d.HasField("dim_value") or d.dim_param for d in shape.dim), f"{name}: {shape}"
    assert (model.ir_version, model.opset_import[0].version) == (10, 21)
    assert all(f.doc_string for f in model.functions)


def logits(path, tokens, golden):
    """All at once, in pieces, token by token, and two sequences side by side, in an ONNX Runtime without our library."""
    tokens, golden, model = tokens_of(tokens)[:, :40], logits_of(golden)[:, :40], session(path)
    near("one shot", run(model, tokens, [40]), golden)
    near("pieces", run(model, tokens, [3, 1, 5, 31]), golden)
    near("token by token", run(model, tokens, [1] * 40), golden)
    both = np.concatenate([tokens[:, ::-1], tokens])
    # GroupQueryAttention takes several sequences at their beginning and token by token.
    near("batch", run(model, both, [37, 1, 1, 1])[1:], golden)


def reference(path, tokens, golden):
    """ONNX's reference evaluator."""
    from onnx.reference import ReferenceEvaluator

    class Session(ReferenceEvaluator):
        def get_inputs(self):
            return [Port(n, t.tensor_type.shape.dim) for n, t in zip(self.input_names, self.input_types)]

        def get_outputs(self):
            return [Port(n, []) for n in self.output_names]

    class Port:
        def __init__(self, name, dims):
            self.name, self.shape = name, [d.dim_param or d.dim_value for d in dims]

    tokens, golden = tokens_of(tokens)[:, :12], logits_of(golden)[:, :12]
    near("reference", run(Session(path), tokens, [7, 5]), golden)


def quantized(path, tokens, expected):
    """With activations left in float32, quantized maps give what their decoded weights give."""
    import onnx

    onnx.checker.check_model(path, full_check=True)
    model = onnx.load(path)
    found = {n.op_type for n in model.graph.node}
    if "com.microsoft" not in {o.domain for o in model.opset_import}:
        assert "DequantizeLinear" in found, "maps are quantized"
        # ONNX Runtime makes MatMulNBits of them, unless it is told not to.
        exact = session(path, optimized=False)
    else:
        assert "MatMulNBits" in found, "maps are quantized"
        for attribute in (a for n in model.graph.node for a in n.attribute if a.name == "accuracy_level"):
            assert attribute.i == 4, "activations are rounded, for speed"
            attribute.i = 1
        exact = session(model.SerializeToString())
    tokens, expected = tokens_of(tokens), logits_of(expected)
    near("exact", run(exact, tokens, [tokens.shape[1]]), expected)
    rounded = run(session(path), tokens, [tokens.shape[1]])
    error = np.linalg.norm(rounded - expected) / np.linalg.norm(expected)
    assert error < 0.15, f"rounded activations: {error}"


def tokenizer(folder, ids):
    """Ids of texts as our tokenizer has them; gives the model and its tokenizer."""
    import onnxruntime_genai as og

    model = og.Model(folder)
    tokenizer = og.Tokenizer(model)
    # Else it leaves out the token that begins a sequence.
    tokenizer.update_options(add_special_tokens="true")
    with open(ids) as file:
        expected = json.load(file)
    for sample, sequence in expected:
        found = [int(i) for i in tokenizer.encode(sample)]
        assert found == sequence, f"{sample!r}: {found}, expected {sequence}"
    return model, tokenizer


def greedy(model, given):
    """50 tokens more."""
    import onnxruntime_genai as og

    params = og.GeneratorParams(model)
    params.set_search_options(max_length=len(given) + 50, do_sample=False)
    generator = og.Generator(model, params)
    generator.append_tokens(given)
    while not generator.is_done():
        generator.generate_next_token()
    return [int(i) for i in generator.get_sequence(0)]


def genai(folder, prompt, text, ids):
    """Ids of texts, and the greedy continuation of a prompt."""
    model, cutter = tokenizer(folder, ids)
    found = cutter.decode(greedy(model, [int(i) for i in cutter.encode(prompt)]))
    assert found.strip() == text.strip(), f"{found!r}, expected {text!r}"


def continuation(folder, out):
    """Writes a prompt of token ids with its greedy continuation."""
    import onnxruntime_genai as og

    tokens = greedy(og.Model(folder), [5 + 7 * i % 180 for i in range(20)])
    with open(out, "w") as file:
        json.dump({"tokens": tokens}, file)


COMMANDS = {
    "graph": graph,
    "logits": logits,
    "reference": reference,
    "quantized": quantized,
    "tokenizer": tokenizer,
    "genai": genai,
    "continue": continuation,
}

if __name__ == "__main__":
    COMMANDS[sys.argv[1]](*sys.argv[2:])
