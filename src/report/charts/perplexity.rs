//! What more context is worth.

use super::frame::*;
use super::kld::{sparse, tokens};
use crate::Result;
use crate::report::numbers::significant;
use crate::report::palette::{CANDIDATE, REFERENCE};
use crate::report::{ContextPerplexity, Report};

/// Perplexity of both models over more and more of every window.
pub fn by_context(r: &Report) -> Result<Chart> {
    let (Some(first), Some(last)) = (r.by_context.first(), r.by_context.last()) else { return Ok(Chart::default()) };
    let place = |c: &ContextPerplexity| (c.tokens as f64).log2();
    let all = || r.by_context.iter().flat_map(|c| [c.reference, c.candidate]);
    let (low, high) = (all().fold(f64::INFINITY, f64::min), all().fold(0.0, f64::max));
    let room = 0.12 * (high - low).max(0.01 * high);
    let y = Scale::between(low - room, high + room, "");
    let marks = sparse(r.by_context.iter().map(|c| (place(c), tokens(c.tokens))).collect());
    let x = Scale { from: place(first) - 0.4, to: place(last) + 0.4, marks };
    let description = format!(
        "Perplexity over the first tokens of every window: at {} tokens {} for the reference and {} for the candidate",
        last.tokens,
        significant(last.reference),
        significant(last.candidate)
    );
    let chart = Picture { title: "Perplexity by context length", description, x, y }.draw(|f| {
        let of = |which: fn(&ContextPerplexity) -> f64| r.by_context.iter().map(|c| (place(c), which(c))).collect();
        let curves: [(Vec<Point>, _, _, _); 2] =
            [(of(|c| c.reference), REFERENCE, 14, 15), (of(|c| c.candidate), CANDIDATE, 5, 8)];
        for (points, color, width, radius) in curves {
            points.iter().try_for_each(|at| f.dot(*at, color, radius))?;
            f.line(points, color, width)?;
        }
        Ok(())
    })?;
    let legend = [(REFERENCE, "reference"), (CANDIDATE, "candidate")];
    Ok(Chart { legend: legend.map(|(color, word)| (color, word.to_owned())).to_vec(), ..chart })
}
