//! Text turned into one stream of tokens, with the domain of each.

use crate::Result;
use std::path::PathBuf;
use tamborim_converters::text::{Content, read_all};
use tamborim_model::tokenizer::Tokenizer;

/// A stream of tokens. Documents follow each other, each text document after a beginning-of-sequence token where the
/// tokenizer has one; token lists are taken as they are.
pub struct Tokens {
    pub ids: Vec<u32>,
    /// Index into `domain_names`, for each token.
    pub domains: Vec<u16>,
    pub domain_names: Vec<String>,
}

impl Tokens {
    /// The first `limit` tokens of `files`. The tokenizer is asked for at the first text document.
    pub fn read(files: &[PathBuf], limit: usize, tokenizer: impl Fn() -> Result<Tokenizer>) -> Result<Tokens> {
        let mut tokens = Tokens { ids: Vec::new(), domains: Vec::new(), domain_names: Vec::new() };
        let mut loaded: Option<Tokenizer> = None;
        for document in read_all(files.to_vec()) {
            let document = document?;
            let ids = match document.content {
                Content::Tokens(ids) => ids,
                Content::Text(text) => {
                    let tokenizer = match &mut loaded {
                        Some(t) => t,
                        none => none.insert(tokenizer()?),
                    };
                    let mut ids: Vec<u32> = tokenizer.bos().into_iter().collect();
                    ids.extend(tokenizer.encode(&text));
                    ids
                }
            };
            tokens.push(&ids, document.domain.as_deref().unwrap_or("text"))?;
            if tokens.ids.len() >= limit {
                tokens.ids.truncate(limit);
                tokens.domains.truncate(limit);
                break;
            }
        }
        Ok(tokens)
    }

    fn push(&mut self, ids: &[u32], domain: &str) -> Result<()> {
        let known = self.domain_names.iter().position(|d| d == domain);
        let domain = known.unwrap_or_else(|| {
            self.domain_names.push(domain.to_owned());
            self.domain_names.len() - 1
        });
        let domain = u16::try_from(domain).map_err(|_| "data: expected at most 65536 domains, found more")?;
        self.ids.extend_from_slice(ids);
        self.domains.resize(self.ids.len(), domain);
        Ok(())
    }
}
