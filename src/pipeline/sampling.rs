//! Which documents a calibration sees.

use crate::Result;
use crate::data::{Encoder, Tokens};
use std::path::PathBuf;
use tamborim_converters::text::{Content, Document, read_all};
use tamborim_model::tokenizer::Tokenizer;

/// Tokens of each set in a thousand of SlimPajama's, as its data card gives them.
const SHARES: [(&str, usize); 7] = [
    ("RedPajamaCommonCrawl", 522),
    ("RedPajamaC4", 267),
    ("RedPajamaGithub", 52),
    ("RedPajamaArXiv", 46),
    ("RedPajamaBook", 42),
    ("RedPajamaWikipedia", 38),
    ("RedPajamaStackExchange", 33),
];

/// Documents passed over are kept, as long as they have at most this many bytes for each token wanted: about twice the
/// text that could be needed.
const KEPT: usize = 8;
/// Reading ends where so many bytes for each token wanted were passed over: what is missing by then is not there.
const PASSED: usize = 64;

/// `n` tokens of `files` in SlimPajama's proportions: documents in file order until each set's share is filled, at most
/// `context` tokens of one, so that a share is more than one document. Shares that the data cannot fill, and all of them
/// where no document says its set, are filled with what was passed over, in file order.
pub fn proportional(
    files: &[PathBuf],
    n: usize,
    context: usize,
    tokenizer: impl Fn() -> Result<Tokenizer>,
) -> Result<Tokens> {
    let mut draw = Draw { missing: shares(n), tokens: Tokens::new(), encoder: Encoder::new(tokenizer), context };
    let (mut kept, mut kept_bytes, mut passed_bytes) = (Vec::new(), 0usize, 0usize);
    for document in read_all(files.to_vec()) {
        let document = document?;
        let left = match set_of(&document) {
            Some(set) if draw.missing[set] > 0 => draw.take(document, set)?,
            _ => Some(document),
        };
        let Some(left) = left else { continue };
        let bytes = match &left.content {
            Content::Text(text) => text.len(),
            Content::Tokens(ids) => 4 * ids.len(),
        };
        passed_bytes = passed_bytes.saturating_add(bytes);
        if kept_bytes < n.saturating_mul(KEPT) {
            kept_bytes += bytes;
            kept.push(left);
        }
        if draw.missing == [0; SHARES.len()] || passed_bytes > n.saturating_mul(PASSED) {
            break;
        }
    }
    // First what is left of long documents of sets that lack text, then whatever there is.
    let mut rest = Vec::new();
    for document in kept {
        rest.extend(match set_of(&document) {
            Some(set) if draw.missing[set] > 0 => draw.take(document, set)?,
            _ => Some(document),
        });
    }
    for document in rest {
        draw.fill(document)?;
    }
    Ok(draw.tokens)
}

/// A thousandth's multiples of `n`, rounded so that they sum up to it.
fn shares(n: usize) -> [usize; SHARES.len()] {
    let mut before = 0u128;
    SHARES.map(|(_, share)| {
        let up_to = |sum: u128| (n as u128 * sum / 1000) as usize;
        let from = up_to(before);
        before += share as u128;
        up_to(before) - from
    })
}

fn set_of(document: &Document) -> Option<usize> {
    let domain = document.domain.as_deref()?;
    SHARES.iter().position(|(name, _)| *name == domain)
}

struct Draw<T> {
    /// Tokens that each set's share still lacks.
    missing: [usize; SHARES.len()],
    tokens: Tokens,
    encoder: Encoder<T>,
    context: usize,
}

impl<T: Fn() -> Result<Tokenizer>> Draw<T> {
    /// Takes of a document what its set's share lacks, at most a window; what is left of it.
    fn take(&mut self, document: Document, set: usize) -> Result<Option<Document>> {
        let Document { content, domain } = document;
        let mut ids = self.encoder.encode(content)?;
        let n = ids.len().min(self.missing[set]).min(self.context);
        let left = ids.split_off(n);
        self.missing[set] -= n;
        self.tokens.push(&ids, domain.as_deref())?;
        Ok((!left.is_empty()).then_some(Document { content: Content::Tokens(left), domain }))
    }

    /// Takes of a document what all shares together lack.
    fn fill(&mut self, document: Document) -> Result<()> {
        let missing: usize = self.missing.iter().sum();
        if missing == 0 {
            return Ok(());
        }
        let ids = self.encoder.encode(document.content)?;
        let mut n = ids.len().min(missing);
        self.tokens.push(&ids[..n], document.domain.as_deref())?;
        for set in &mut self.missing {
            let taken = n.min(*set);
            *set -= taken;
            n -= taken;
        }
        Ok(())
    }
}
