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
    /// Where documents begin.
    pub documents: Vec<usize>,
}

/// Documents to tokens, with a tokenizer that is asked for at the first text.
pub struct Encoder<T> {
    tokenizer: T,
    loaded: Option<Tokenizer>,
}

impl<T: Fn() -> Result<Tokenizer>> Encoder<T> {
    pub fn new(tokenizer: T) -> Encoder<T> {
        Encoder { tokenizer, loaded: None }
    }

    pub fn encode(&mut self, content: Content) -> Result<Vec<u32>> {
        let text = match content {
            Content::Tokens(ids) => return Ok(ids),
            Content::Text(text) => text,
        };
        let tokenizer = match &mut self.loaded {
            Some(t) => t,
            none => none.insert((self.tokenizer)()?),
        };
        let mut ids: Vec<u32> = tokenizer.bos().into_iter().collect();
        ids.extend(tokenizer.encode(&text));
        Ok(ids)
    }
}

impl Tokens {
    /// No tokens yet.
    pub fn new() -> Tokens {
        Tokens { ids: Vec::new(), domains: Vec::new(), domain_names: Vec::new(), documents: Vec::new() }
    }

    /// The first `limit` tokens of `files`. The tokenizer is asked for at the first text document.
    pub fn read(files: &[PathBuf], limit: usize, tokenizer: impl Fn() -> Result<Tokenizer>) -> Result<Tokens> {
        let (mut tokens, mut encoder) = (Tokens::new(), Encoder::new(tokenizer));
        for document in read_all(files.to_vec()) {
            let document = document?;
            let ids = encoder.encode(document.content)?;
            tokens.push(&ids, document.domain.as_deref())?;
            if tokens.ids.len() >= limit {
                tokens.ids.truncate(limit);
                tokens.domains.truncate(limit);
                break;
            }
        }
        Ok(tokens)
    }

    /// Tokens of each domain that has any, by name.
    pub fn by_domain(&self) -> Vec<(String, u64)> {
        let mut counts = vec![0; self.domain_names.len()];
        self.domains.iter().for_each(|d| counts[usize::from(*d)] += 1);
        let mut counts: Vec<_> = self.domain_names.iter().cloned().zip(counts).filter(|(_, n)| *n > 0).collect();
        counts.sort_unstable();
        counts
    }

    /// Appends tokens of a document.
    pub fn push(&mut self, ids: &[u32], domain: Option<&str>) -> Result<()> {
        let domain = domain.unwrap_or("text");
        let known = self.domain_names.iter().position(|d| d == domain);
        let domain = known.unwrap_or_else(|| {
            self.domain_names.push(domain.to_owned());
            self.domain_names.len() - 1
        });
        let domain = u16::try_from(domain).map_err(|_| "data: expected at most 65536 domains, found more")?;
        self.documents.push(self.ids.len());
        self.ids.extend_from_slice(ids);
        self.domains.resize(self.ids.len(), domain);
        Ok(())
    }
}
