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

/// Documents passed over are kept as long as those of their set have at most this many bytes for each token wanted: about
/// twice the text that could be needed.
const KEPT: usize = 8;
/// Reading ends where so many bytes for each token wanted were passed over: what is missing by then is not there.
const PASSED: usize = 64;

/// `n` tokens of `files` in SlimPajama's proportions: documents in file order until each set's share is filled, at most
/// `context` tokens of one at a time, so that a share is more than one document. The share of a set that lacks text goes
/// to the others in their proportions, further pieces of long documents included; text of no known set fills what they
/// cannot, in file order.
pub fn proportional(
    files: &[PathBuf],
    n: usize,
    context: usize,
    tokenizer: impl Fn() -> Result<Tokenizer>,
) -> Result<Tokens> {
    let missing = shares(n, |_| true);
    let mut draw = Draw { missing, tokens: Tokens::new(), encoder: Encoder::new(tokenizer), context };
    let (mut kept, mut kept_bytes, mut passed_bytes) = (Vec::new(), [0usize; SHARES.len() + 1], 0usize);
    for document in read_all(files.to_vec()) {
        let Some(left) = draw.take(document?)? else { continue };
        let bytes = match &left.content {
            Content::Text(text) => text.len(),
            Content::Tokens(ids) => 4 * ids.len(),
        };
        passed_bytes = passed_bytes.saturating_add(bytes);
        let kept_bytes = &mut kept_bytes[set_of(&left).unwrap_or(SHARES.len())];
        if *kept_bytes < n.saturating_mul(KEPT) {
            *kept_bytes += bytes;
            kept.push(left);
        }
        if draw.missing() == 0 || passed_bytes > n.saturating_mul(PASSED) {
            break;
        }
    }
    while draw.missing() > 0 && kept.iter().any(|d| set_of(d).is_some()) {
        draw.missing = shares(draw.missing(), |set| kept.iter().any(|d| set_of(d) == Some(set)));
        let mut left = Vec::new();
        for document in kept {
            left.extend(draw.take(document)?);
        }
        kept = left;
    }
    for document in kept {
        draw.fill(document)?;
    }
    Ok(draw.tokens)
}

/// `n` divided among some sets as SlimPajama is.
fn shares(n: usize, among: impl Fn(usize) -> bool) -> [usize; SHARES.len()] {
    let share = |set: usize| if among(set) { SHARES[set].1 as u128 } else { 0 };
    let total = (0..SHARES.len()).map(share).sum::<u128>().max(1);
    let mut sum = 0;
    std::array::from_fn(|set| {
        // Rounded so that the parts sum up to n.
        let up_to = |sum: u128| (n as u128 * sum / total) as usize;
        let from = up_to(sum);
        sum += share(set);
        up_to(sum) - from
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
    /// Tokens that all shares together lack.
    fn missing(&self) -> usize {
        self.missing.iter().sum()
    }

    /// Takes of a document what its set's share lacks, at most a window; what is left of it.
    fn take(&mut self, document: Document) -> Result<Option<Document>> {
        let Some(set) = set_of(&document).filter(|set| self.missing[*set] > 0) else { return Ok(Some(document)) };
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
        if self.missing() == 0 {
            return Ok(());
        }
        let ids = self.encoder.encode(document.content)?;
        let mut n = ids.len().min(self.missing());
        self.tokens.push(&ids[..n], document.domain.as_deref())?;
        for set in &mut self.missing {
            let taken = n.min(*set);
            *set -= taken;
            n -= taken;
        }
        Ok(())
    }
}
