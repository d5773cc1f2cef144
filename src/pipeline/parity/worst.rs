//! The positions that differ most, for a person to judge whether they matter.

use super::text;
use crate::Result;
use crate::data::Tokens;
use crate::report::{LikelyToken, WorstPosition};
use tamborim_kernels::Backend;
use tamborim_kernels::parity::{Distance, Likely, likeliest};
use tamborim_model::tokenizer::Tokenizer;

/// Positions that a report shows.
pub const KEPT: usize = 20;
/// Tokens of text that it shows before and after each.
const BEFORE: usize = 48;
const AFTER: usize = 12;

/// The worst positions so far, with what both models thought likely there: logits are at hand only while they pass.
pub struct Worst {
    keep: usize,
    /// Largest divergence first.
    places: Vec<Place>,
}

struct Place {
    position: usize,
    kld: f64,
    reference: Vec<Likely>,
    candidate: Vec<Likely>,
}

impl Worst {
    pub fn new(keep: usize) -> Worst {
        Worst { keep, places: Vec::new() }
    }

    /// Looks at the rows of two models' logits whose distances, from position `from` on, are among the largest so far.
    pub fn look<B: Backend>(
        &mut self,
        backend: &B,
        logits: [&B::Rows; 2],
        vocab_size: usize,
        distances: &[Distance],
        from: usize,
    ) -> Result<()> {
        let mut order: Vec<usize> = (0..distances.len()).collect();
        order.sort_by(|a, b| distances[*b].kld.total_cmp(&distances[*a].kld));
        for row in order.into_iter().take(self.keep) {
            let kld = distances[row].kld;
            let least = if self.places.len() < self.keep { 0.0 } else { self.places.last().map_or(0.0, |p| p.kld) };
            if kld <= least {
                break;
            }
            let read = |rows| {
                Ok::<_, tamborim_kernels::Error>(likeliest(&backend.read(&backend.row(rows, row))?[..vocab_size]))
            };
            let place = Place { position: from + row, kld, reference: read(logits[0])?, candidate: read(logits[1])? };
            let at = self.places.partition_point(|p| p.kld >= kld);
            self.places.insert(at, place);
            self.places.truncate(self.keep);
        }
        Ok(())
    }
}

/// The positions with their text.
pub fn describe(worst: Worst, tokens: &Tokens, context: usize, tokenizer: Option<&Tokenizer>) -> Vec<WorstPosition> {
    let describe = |place: Place| {
        let next = place.position + 1;
        let window = place.position - place.position % context;
        let before = &tokens.ids[next.saturating_sub(BEFORE).max(window)..next];
        let after = &tokens.ids[next..tokens.ids.len().min(next + 1 + AFTER)];
        let likely = |found: Vec<Likely>| {
            let token = |l: Likely| LikelyToken {
                token: l.token,
                text: tokenizer.map(|t| text::token_after(t, before, l.token)),
                probability: l.probability,
            };
            found.into_iter().map(token).collect()
        };
        let ids = |ids: &[u32]| ids.iter().map(|id| format!("{id} ")).collect::<String>();
        WorstPosition {
            position: place.position,
            context: next - window,
            domain: tokens.domain_names[usize::from(tokens.domains[next])].clone(),
            kld: place.kld,
            before: tokenizer.map_or_else(|| ids(before), |t| t.decode(before)),
            next: tokenizer.map_or_else(|| after[0].to_string(), |t| text::token_after(t, before, after[0])),
            after: tokenizer.map_or_else(
                || ids(&after[1..]),
                |t| text::text_after(t, &[before, &after[..1]].concat(), &after[1..]),
            ),
            reference: likely(place.reference),
            candidate: likely(place.candidate),
        }
    };
    worst.places.into_iter().map(describe).collect()
}
