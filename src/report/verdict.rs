//! What was measured against what was asked for.

use super::{Report, Verdict};
use serde::Serialize;

/// One threshold.
#[derive(Serialize)]
pub struct Check {
    pub name: &'static str,
    pub measured: f64,
    pub limit: f64,
    /// The measured number may not be above the limit; else not below.
    pub is_maximum: bool,
    pub passed: bool,
    /// The limit lies inside the interval of what was measured: other text might have decided otherwise.
    pub close: bool,
}

impl Check {
    fn new(
        name: &'static str,
        limit: Option<f64>,
        is_maximum: bool,
        measured: f64,
        [low, high]: [f64; 2],
    ) -> Option<Check> {
        let limit = limit?;
        // What is not a number misses every limit.
        let passed = if is_maximum { measured <= limit } else { measured >= limit };
        Some(Check { name, measured, limit, is_maximum, passed, close: low < limit && limit < high })
    }

    /// How far the measured number is from the limit.
    pub fn margin(&self) -> f64 {
        (self.measured - self.limit).abs()
    }

    /// What was missed, and by how much.
    fn miss(&self) -> Option<String> {
        let Check { name, measured, limit, .. } = self;
        let side = if self.is_maximum { "above" } else { "below" };
        let close = if self.close { ", inside its interval" } else { "" };
        (!self.passed).then(|| format!("{name} {measured:.6} is {side} {limit} by {:.6}{close}", self.margin()))
    }
}

impl Report {
    /// One for each threshold that was asked for.
    pub fn checks(&self) -> Vec<Check> {
        let t = &self.thresholds;
        let kld = (self.kld.mean, self.kld.interval);
        let ratio = (self.perplexity.ratio, self.perplexity.ratio_interval);
        [
            Check::new("mean KLD", t.max_kld, true, kld.0, kld.1),
            Check::new("top-1 agreement", t.min_top1, false, self.top1_agreement, self.top1_interval),
            Check::new("perplexity ratio", t.max_ppl_ratio, true, ratio.0, ratio.1),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// Holds what was measured against the thresholds.
    pub fn judge(&mut self) {
        self.missed = self.checks().iter().filter_map(Check::miss).collect();
        self.verdict = if self.missed.is_empty() { Verdict::Pass } else { Verdict::Fail };
    }
}
