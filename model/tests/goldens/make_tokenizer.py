"""Writes tokenizer.json and the two tiny *.model files beside this script with Google's sentencepiece (0.2.3).

    pip install sentencepiece==0.2.3 && python make_tokenizer.py
"""
import json
import pathlib

import sentencepiece as sp

here = pathlib.Path(__file__).parent
demo = here.parents[2] / "demo" / "tokenizer.model"

TEXTS = [
    "", " ", "  ", "   ", " a", "  a", "a ", "a  ", "a   b", "\n", "\n\n", "\t", "\r\n", "a\nb", " \n ",
    "The quick brown fox jumps over the lazy dog.", "Hello, world!  Two  spaces.", "def f(x):\n    return x + 1\n",
    "don't stop", "12345 67,890.12", "http://x.y/z?q=1&r=%20", "hello\0world", "\0", "\x7f\x01\x02",
    "😀", "👩‍👩‍👧‍👦 family", "🇫🇷🏳️‍🌈", "日本語のテキスト", "你好,世界", "한국어", "مرحبا بالعالم", "नमस्ते",
    "<s>", "</s>", "a<s>b</s>c", "<unk>", "<0x41>", "<0x0A>x", "<pad>", "[PAD0]", "<|user|>hi there<|user|>",
    "▁", "▁▁a", "a▁b", " ▁ ", "x ▁", "⁇", "\ufffd", "\ufeffbom", "\u200b", "\u00a0nbsp", "\u3000wide", "e\u0301", "é",
    "ﬁne ① Ⅷ", "x\u2028y", "\U0010ffff", "\ue000", "a" * 50, " " * 30, "\n" * 20, "=-" * 20, "1 + 1 = 2 ",
]
SENTENCES = [
    "the smallest drum of a samba band is the tamborim", "it is played with a thin stick, and it sings",
    "one two three four, one two three four", "the band plays on and on, the drum goes on",
    "a model is small if it fits in a hand; a hand is small if it fits a drum",
    "0 1 2 3 4 5 6 7 8 9", "what is said is said, and what is sung is sung",
] * 4


def train(name, **options):
    rules = here / "rules.tsv"
    # U+FB01 -> f i; e U+0301 -> U+00E9; tab and newline -> space; U+200B -> nothing
    rules.write_text("FB01\t66 69\n65 301\tE9\n9\t20\nA\t20\n200B\t\n")
    sp.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES), model_prefix=str(here / name), normalization_rule_tsv=str(rules),
        hard_vocab_limit=False, minloglevel=2, **options)
    rules.unlink()
    (here / f"{name}.vocab").unlink()
    return here / f"{name}.model"


models = {
    "demo": demo,
    "unigram": train("unigram", model_type="unigram", vocab_size=120, user_defined_symbols=["<|user|>", "▁hi there"]),
    "suffix": train("suffix", model_type="bpe", vocab_size=380, byte_fallback=True, treat_whitespace_as_suffix=True,
                    remove_extra_whitespaces=False, user_defined_symbols=["<|user|>"], pad_id=3),
}
out = {}
for name, path in models.items():
    s = sp.SentencePieceProcessor(model_file=str(path))
    rows = [{"text": t, "ids": s.encode(t), "decoded": s.decode(s.encode(t))} for t in TEXTS]
    # Ids that no text gives: split characters, control tokens between, spaces at the beginning.
    n = s.get_piece_size()
    lists = [[1, 5, 2], [0, 0], [1, n - 1, 2, n - 2], [n - 1] * 3]
    lists += [[(7 * i + 11 * j) % n for j in range(9)] for i in range(20)]
    rows += [{"ids": i, "decoded": s.decode(i)} for i in lists]
    out[name] = rows
(here / "tokenizer.json").write_text(
    "{\n" + ",\n".join(f"{json.dumps(k)}: [\n" + ",\n".join(json.dumps(r) for r in v) + "\n]" for k, v in out.items()) + "\n}\n")
