//! Text from data and tokenizers, of which anything must be expected, made fit to be shown.

/// `text` with every character that shows nothing, or that changes how others show, made visible: `↵` for a line's end, `→`
/// for a tab, pictures of other controls, and code points of the invisible ones, those that turn the direction of writing
/// among them.
pub fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => shown.push('↵'),
            '\r' => shown.push('␍'),
            '\t' => shown.push('→'),
            '\u{0}'..='\u{1f}' => shown.extend(char::from_u32(0x2400 + c as u32)),
            '\u{7f}' => shown.push('␡'),
            c if is_invisible(c) => shown.push_str(&format!("⟨U+{:04X}⟩", c as u32)),
            c => shown.push(c),
        }
    }
    shown
}

/// A token alone, where a leading or trailing space is part of what it is.
pub fn visible_token(text: &str) -> String {
    let spaces = |s: &str| "␣".repeat(s.len());
    let body = text.trim_matches(' ');
    if body.is_empty() {
        return spaces(text);
    }
    let (lead, tail) = (text.len() - text.trim_start_matches(' ').len(), text.len() - text.trim_end_matches(' ').len());
    format!("{}{}{}", spaces(&text[..lead]), visible(body), spaces(&text[text.len() - tail..]))
}

/// Format characters (category Cf), separators of lines and paragraphs, controls beyond ASCII, variation selectors and tags.
fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{80}'..='\u{9f}' | '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{180e}'
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
        | '\u{fff9}'..='\u{fffb}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_hides() {
        assert_eq!(visible("a\nb\tc\0d\x1b[0m\u{202e}e\u{200d}f é 漢"), "a↵b→c␀d␛[0m⟨U+202E⟩e⟨U+200D⟩f é 漢");
        assert_eq!(visible_token("  the\n"), "␣␣the↵");
        assert_eq!((visible_token(" "), visible_token("")), ("␣".to_owned(), String::new()));
    }
}
