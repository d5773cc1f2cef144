/// Why a description is not a model of the family. One line each; values come from the description.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A configuration field is missing, has the wrong type, or contradicts another one or the tensors.
    #[error("config field {field}: expected {expected}, found {found}")]
    Config {
        /// The field's name in the training code.
        field: String,
        /// What would be accepted.
        expected: String,
        /// What was given.
        found: String,
    },
    /// The configuration is no JSON object.
    #[error("config: {reason}")]
    Json {
        /// The parser's words.
        reason: String,
    },
    /// No official configuration has this name.
    #[error("config {name}: no official configuration has this name; close: {close}")]
    UnknownName {
        /// The name asked for.
        name: String,
        /// The most similar official names.
        close: String,
    },
    /// The official code cannot run this configuration either.
    #[error("config {name}: {reason}: no forward pass exists for it, in the training code or here")]
    NoForward {
        /// The configuration's name.
        name: String,
        /// Which setting makes it so.
        reason: String,
    },
    /// A tokenizer file is damaged or of a kind that is not read here.
    #[error("tokenizer: expected {expected}, found {found}")]
    Tokenizer {
        /// What would be accepted.
        expected: String,
        /// What was given.
        found: String,
    },
}

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// [`Error::Config`] for `field`.
    pub fn config(field: impl Into<String>, expected: impl Into<String>, found: impl ToString) -> Error {
        Error::Config { field: one_line(&field.into()), expected: expected.into(), found: one_line(&found.to_string()) }
    }
}

/// A text from a file made fit for a message: control characters escaped, a long one cut.
pub(crate) fn one_line(text: &str) -> String {
    const LONGEST: usize = 200;
    let mut line = String::new();
    for c in text.chars().take(LONGEST) {
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    if text.chars().nth(LONGEST).is_some() {
        line.push_str("...");
    }
    line
}
