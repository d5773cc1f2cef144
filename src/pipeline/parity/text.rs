//! What tokens look like where they stand.

use tamborim_model::tokenizer::Tokenizer;

/// The text that `ids` add after `before`.
pub fn text_after(tokenizer: &Tokenizer, before: &[u32], ids: &[u32]) -> String {
    let mut decoder = tokenizer.decoder();
    let mut text = String::new();
    before.iter().for_each(|id| decoder.push(*id, &mut text));
    let from = text.len();
    ids.iter().for_each(|id| decoder.push(*id, &mut text));
    decoder.finish(&mut text);
    text.split_off(from)
}

/// The text of one token after `before`; its name in the vocabulary where it is no text by itself, as marks and parts of
/// characters are.
pub fn token_after(tokenizer: &Tokenizer, before: &[u32], id: u32) -> String {
    let text = text_after(tokenizer, before, &[id]);
    match tokenizer.piece(id) {
        Some(piece) if text.is_empty() || text.contains(char::REPLACEMENT_CHARACTER) => piece.to_owned(),
        _ => text,
    }
}
