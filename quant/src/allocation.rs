//! Which format each tensor gets so that a file of a given size loses least.

use crate::Format;

/// What one tensor could be stored in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// The format.
    pub format: Format,
    /// Bytes of the whole tensor in it.
    pub bytes: u64,
    /// What the model loses by it (KL divergence in nats); losses of tensors add up.
    pub loss: f64,
}

/// Of each tensor's candidates the one to take, as an index, so that the bytes stay within `budget` and the losses' sum is
/// small: every tensor begins with its smallest, then the step to a larger one that saves most loss per byte is taken as
/// long as one fits. Where not even the smallest fit, they are what comes back.
///
/// A step goes to the candidate of steepest descent, so formats that a mixture of others beats are passed over, as on the
/// convex hull of the loss over bytes; that greedy choice is optimal up to the last step.
///
/// # Panics
/// If a tensor has no candidate.
pub fn allocate(tensors: &[Vec<Candidate>], budget: u64) -> Vec<usize> {
    let smallest = |candidates: &Vec<Candidate>| {
        let best = |i: &usize| (candidates[*i].bytes, ordered(candidates[*i].loss));
        (0..candidates.len()).min_by_key(best).unwrap_or_else(|| panic!("a tensor without candidates"))
    };
    let mut chosen: Vec<usize> = tensors.iter().map(smallest).collect();
    let mut total: u64 = chosen.iter().zip(tensors).map(|(i, t)| t[*i].bytes).sum();
    loop {
        // Steepest first; of equals the first tensor's.
        let mut best: Option<(f64, usize, usize)> = None;
        for (t, candidates) in tensors.iter().enumerate() {
            let now = candidates[chosen[t]];
            for (i, c) in candidates.iter().enumerate() {
                if c.bytes <= now.bytes || total + (c.bytes - now.bytes) > budget {
                    continue;
                }
                let slope = (now.loss - c.loss) / (c.bytes - now.bytes) as f64;
                if slope > 0.0 && best.is_none_or(|(steepest, ..)| slope > steepest) {
                    best = Some((slope, t, i));
                }
            }
        }
        let Some((_, t, i)) = best else { return chosen };
        total += tensors[t][i].bytes - tensors[t][chosen[t]].bytes;
        chosen[t] = i;
    }
}

/// An order of losses, whatever their sign.
fn ordered(loss: f64) -> i64 {
    let bits = loss.to_bits() as i64;
    bits ^ (((bits >> 63) as u64) >> 1) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(of: &[(u64, f64)]) -> Vec<Candidate> {
        of.iter().map(|(bytes, loss)| Candidate { format: Format::Q4K, bytes: *bytes, loss: *loss }).collect()
    }

    #[test]
    fn bytes_go_where_they_save_most() {
        let tensors =
            [candidates(&[(4, 8.0), (5, 4.0), (8, 1.0)]), candidates(&[(40, 9.0), (50, 1.0)]), candidates(&[(4, 0.1)])];
        assert_eq!(allocate(&tensors, 0), [0, 0, 0]);
        assert_eq!(allocate(&tensors, 49), [1, 0, 0]);
        assert_eq!(allocate(&tensors, 52), [2, 0, 0]);
        assert_eq!(allocate(&tensors, 62), [2, 1, 0]);
    }

    #[test]
    fn formats_that_a_mixture_beats_are_passed_over() {
        let tensors = [candidates(&[(4, 8.0), (5, 7.9), (8, 1.0)])];
        assert_eq!(allocate(&tensors, 8), [2]);
        assert_eq!(allocate(&tensors, 7), [1]);
    }
}
