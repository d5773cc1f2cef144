"""Writes byte_level.json and byte_level.tokenizer.json beside this script with Hugging Face's tokenizers.

    pip install tokenizers==0.23.3 && python make_byte_level.py
"""
import json
import pathlib

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

here = pathlib.Path(__file__).parent
TEXTS = [row["text"] for row in json.loads((here / "tokenizer.json").read_text())["demo"] if "text" in row]
PAGE = (here.parents[2] / "demo" / "page.txt").read_text().splitlines()
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
MORE = [
    "CamelCaseWords and SHOUTING don't DON'T I'LL we've", "1234567 12 3", "a//b\n\n  c", "x\n \n y", "<|user|>hi<|end|> there",
    "<|user|>   spaces after", "a <|tool|> b", "naïve Ünïcode ΑΒΓαβγ ДжЖ", "été", "ab" * 300, "<|end|><|end|>", "tabs\t\there",
    " \u3000 wide", "the band's drum; THE BAND'S DRUM", "a<|en", "lstrip  <|left|> here",
]


def main():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(O200K), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=420, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False)
    tokenizer.train_from_iterator(PAGE + [line.upper() for line in PAGE] + MORE, trainer)
    special = lambda text, **how: AddedToken(text, special=True, normalized=False, **how)
    tokenizer.add_special_tokens([special("<|end|>"), special("<|user|>", rstrip=True), special("<|left|>", lstrip=True)])
    tokenizer.add_tokens([AddedToken("<|tool|>", normalized=False)])
    tokenizer.save(str(here / "byte_level.tokenizer.json"), pretty=False)
    rows = []
    for text in TEXTS + MORE:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        rows.append({"text": text, "ids": ids, "decoded": tokenizer.decode(ids, skip_special_tokens=True)})
    (here / "byte_level.json").write_text(json.dumps(rows, ensure_ascii=False, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
