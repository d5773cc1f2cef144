//! Choosing the next token.

/// How to choose.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Logits are divided by this; 0 takes the likeliest token.
    pub temperature: f32,
    /// Only the likeliest tokens that together reach this probability are considered.
    pub top_p: f32,
}

/// The token of the largest logit, of equal ones the first.
pub fn likeliest(logits: &[f32]) -> u32 {
    let larger = |a: usize, b: usize| if logits[b] > logits[a] { b } else { a };
    (0..logits.len()).reduce(larger).unwrap_or(0) as u32
}

/// A seeded chooser: the same seed and logits give the same tokens.
pub struct Sampler {
    sampling: Sampling,
    random: fastrand::Rng,
}

impl Sampler {
    /// With a seed.
    pub fn new(sampling: Sampling, seed: u64) -> Sampler {
        Sampler { sampling, random: fastrand::Rng::with_seed(seed) }
    }

    /// Whether it always takes the likeliest token.
    pub fn is_greedy(&self) -> bool {
        self.sampling.temperature <= 0.0
    }

    /// The next token after `logits` over the true vocabulary.
    pub fn next(&mut self, logits: &[f32]) -> u32 {
        let likeliest = likeliest(logits);
        if self.is_greedy() {
            return likeliest;
        }
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        let value = |t: u32| logits[t as usize];
        let max = f64::from(value(likeliest));
        let weight = |t: u32| ((f64::from(value(t)) - max) / f64::from(self.sampling.temperature)).exp();
        order.sort_by(|a, b| value(*b).total_cmp(&value(*a)).then(a.cmp(b)));
        let total: f64 = order.iter().map(|t| weight(*t)).sum();
        let limit = total * f64::from(self.sampling.top_p).clamp(0.0, 1.0);
        let mut kept = 0.0;
        let inside = |t: &&u32| {
            let inside = kept < limit;
            kept += weight(**t);
            inside
        };
        let nucleus = order.iter().take_while(inside).count();
        let nucleus = &order[..nucleus.max(1)];
        let mut left = self.random.f64() * nucleus.iter().map(|t| weight(*t)).sum::<f64>();
        for t in nucleus {
            left -= weight(*t);
            if left < 0.0 {
                return *t;
            }
        }
        likeliest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temperature_zero_is_greedy_and_top_p_cuts_the_tail() {
        let logits = [0.0, 3.0, 2.9, -5.0];
        let greedy = Sampling { temperature: 0.0, top_p: 1.0 };
        assert_eq!(Sampler::new(greedy, 0).next(&logits), 1);
        let mut nucleus = Sampler::new(Sampling { temperature: 1.0, top_p: 0.8 }, 7);
        let drawn: Vec<u32> = (0..200).map(|_| nucleus.next(&logits)).collect();
        assert!(drawn.contains(&1) && drawn.contains(&2) && !drawn.contains(&0) && !drawn.contains(&3));
    }
}
