//! What a Samba-family model is: configuration, layer plan, canonical tensors, tokenizer. No file formats.
