#!/bin/sh
# Fills corpus/: small files made by src/seeds.rs, the committed fixtures, and, where it is there, the full set in
# ../../shared/fixtures.
set -eu
cd "$(dirname "$0")"
cargo run --quiet --release --example seeds -- corpus

shared=../../shared
[ -d "$shared/fixtures" ] || exit 0
# Puts the files of at most 64 KiB that find selects into the corpus of a target.
add() {
    target=$1
    shift
    find "$@" -type f -size -64k | while read -r file; do
        cp "$file" "corpus/$target/$(printf %s "$file" | cksum | cut -d' ' -f1)"
    done
}
lit=$shared/fixtures/lit
add torch "$lit/broken" "$lit/formats" -name '*.pth'
add legacy "$lit/broken" "$lit/formats" -name '*legacy*.pth'
add distributed "$lit/broken" "$lit/formats" -name .metadata
add pickle "$lit/broken" "$lit/formats" -name .metadata
add safetensors "$lit/broken" "$lit/formats" -name '*.safetensors'
add index "$shared/fixtures" -name '*.index.json'
add config "$shared/fixtures" -name '*config*.json'
add config "$lit/broken/configs"
add tokenizer "$shared/models" -name tokenizer.model
chmod -R u+w corpus
