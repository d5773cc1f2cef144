"""Our ONNX models and the library of operators, as users of Python's onnxruntime have them.

usage: onnx_clients.py poison MODEL OUT
       onnx_clients.py kernel_wins MODEL LIBRARY
       onnx_clients.py refusals MODEL LIBRARY
       onnx_clients.py threads MODEL LIBRARY
       onnx_clients.py genai FOLDER PROMPT N
"""

import sys
import threading

import numpy as np


def session(model, library=None):
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 2
    if library:
        options.register_custom_ops_library(library)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def poisoned(path):
    """The model with every operator's function giving a thousand more than its result. (A norm hides a thousand times.)"""
    import onnx
    from onnx import helper

    model = onnx.load(path, load_external_data=False)
    assert model.functions, "the model has functions"
    for function in model.functions:
        for node in function.node:
            node.output[:] = ["y_before" if o == "y" else o for o in node.output]
        function.node.append(helper.make_node("Constant", [], ["poison"], value_float=1000.0))
        function.node.append(helper.make_node("Add", ["y_before", "poison"], ["y"]))
    return model


def one_operator(path, name):
    """A model of that operator alone, whose inputs have any shape."""
    import onnx
    from onnx import TensorProto, helper

    function = next(f for f in onnx.load(path, load_external_data=False).functions if f.name == name)
    value = lambda n: helper.make_tensor_value_info(n, TensorProto.FLOAT, None)
    node = helper.make_node(name, list(function.input), list(function.output), domain=function.domain)
    graph = helper.make_graph([node], "g", [value(n) for n in function.input], [value(n) for n in function.output])
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(function.domain, 1)]
    return helper.make_model(graph, functions=[function], opset_imports=opsets, ir_version=10).SerializeToString()


def logits(session, tokens, pieces):
    """Of all tokens, given in pieces."""
    shape = lambda i: [1 if d == "batch_size" else 0 if isinstance(d, str) else d for d in i.shape]
    past = {i.name: np.zeros(shape(i), np.float32) for i in session.get_inputs() if i.name.startswith("past")}
    names, rows, at = [o.name for o in session.get_outputs()], [], 0
    for piece in pieces:
        feed = {"input_ids": np.array([tokens[at : at + piece]], np.int64), **past}
        at += piece
        feed["attention_mask"] = np.ones((1, at), np.int64)
        out = dict(zip(names, session.run(None, feed)))
        rows.append(out["logits"][0])
        past = {"past_key_values" + n.removeprefix("present"): v for n, v in out.items() if n.startswith("present")}
    return np.concatenate(rows)


def kernel_wins(path, library):
    tokens = [(i * 7919 + 3) % 100 for i in range(40)]
    bad = poisoned(path).SerializeToString()
    body = logits(session(path), tokens, [40])
    for pieces in ([40], [17, 1, 1, 21]):
        kernel = logits(session(bad, library), tokens, pieces)
        assert np.abs(kernel - body).max() < 1e-4, f"the kernel gives what the body gives: {np.abs(kernel - body).max()}"
    assert np.abs(logits(session(bad), tokens, [40]) - body).max() > 0.01, "without the kernel the body runs"


def scan_inputs(length):
    draw = lambda *shape: np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    inputs = dict(u=draw(1, length, 20), delta=draw(1, length, 20), A=-np.exp(draw(20, 4)), B=draw(1, length, 4))
    inputs |= dict(C=draw(1, length, 4), D=draw(20), z=draw(1, length, 20), delta_bias=draw(20), past_state=draw(1, 20, 4))
    return inputs


def refusals(path, library):
    run = session(one_operator(path, "SelectiveScan"), library).run
    good = scan_inputs(3)
    for name in good:
        for wrong in (np.zeros(good[name].shape[:-1] + (5,), np.float32), np.zeros((), np.float32)):
            try:
                run(None, good | {name: wrong})
            except Exception as error:
                assert "SelectiveScan: " in str(error) and "expected" in str(error), error
            else:
                raise AssertionError(f"{name} of {wrong.shape} was accepted")
    y, state = run(None, good)
    assert np.isfinite(y).all() and state.shape == (1, 20, 4)
    empty = scan_inputs(0)
    y, state = run(None, empty)
    assert y.shape == (1, 0, 20) and np.array_equal(state, empty["past_state"])


def threads(path, library):
    """One session, run by several threads at once."""
    shared, inputs = session(one_operator(path, "SelectiveScan"), library), scan_inputs(300)
    expected, problems = shared.run(None, inputs), []

    def work():
        for _ in range(20):
            if not all(np.array_equal(a, b) for a, b in zip(shared.run(None, inputs), expected)):
                problems.append("other numbers")

    workers = [threading.Thread(target=work) for _ in range(4)]
    [w.start() for w in workers]
    [w.join() for w in workers]
    assert not problems, problems


def genai(folder, prompt, count):
    """Prints a prompt's greedy continuation: ids on one line, then the text of all."""
    import onnxruntime_genai as og

    model = og.Model(folder)
    tokenizer = og.Tokenizer(model)
    # Else it leaves out the token that begins a sequence.
    tokenizer.update_options(add_special_tokens="true")
    given = [int(i) for i in tokenizer.encode(prompt)]
    params = og.GeneratorParams(model)
    params.set_search_options(max_length=len(given) + int(count), do_sample=False)
    generator = og.Generator(model, params)
    generator.append_tokens(given)
    while not generator.is_done():
        generator.generate_next_token()
    sequence = [int(i) for i in generator.get_sequence(0)]
    print(*sequence[len(given) :])
    print(tokenizer.decode(sequence))


def main():
    what, arguments = sys.argv[1], sys.argv[2:]
    if what == "poison":
        model = poisoned(arguments[0]).SerializeToString()
        with open(arguments[1], "wb") as out:
            out.write(model)
    else:
        {"kernel_wins": kernel_wins, "refusals": refusals, "threads": threads, "genai": genai}[what](*arguments)


main()
