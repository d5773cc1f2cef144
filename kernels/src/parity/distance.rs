use rayon::prelude::*;

/// Distances between the logits of two models at one position, and what each made of the true next token.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Distance {
    /// KL(reference || candidate) in nats, float64, never below 0.
    pub kld: f64,
    /// Negative log likelihood of the true next token under the reference, in nats.
    pub reference_nll: f64,
    /// The same under the candidate.
    pub candidate_nll: f64,
    /// Both models rank the same token first.
    pub same_top1: bool,
    /// Share of the reference's five likeliest tokens that are among the candidate's five.
    pub top5_overlap: f64,
    /// Largest difference of two logits.
    pub max_difference: f32,
    /// Mean squared difference of the logits.
    pub mean_square_difference: f64,
}

/// [`Distance`] of two rows of logits over the true vocabulary (padding excluded); `target` is the token that follows.
pub fn distance(reference: &[f32], candidate: &[f32], target: u32) -> Distance {
    let (log_z_a, log_z_b) = (log_sum_exp(reference), log_sum_exp(candidate));
    let shift = log_z_a - log_z_b;
    let (mut kld, mut max_difference, mut squares) = (0.0, 0.0f32, 0.0);
    for (&a, &b) in reference.iter().zip(candidate) {
        let difference = f64::from(a) - f64::from(b);
        kld += (f64::from(a) - log_z_a).exp() * (difference - shift);
        max_difference = max_difference.max((a - b).abs());
        squares += difference * difference;
    }
    let (top_a, top_b) = (top::<5>(reference), top::<5>(candidate));
    let shared = top_a.iter().filter(|t| **t < reference.len() && top_b.contains(t)).count();
    Distance {
        kld: kld.max(0.0),
        reference_nll: log_z_a - f64::from(reference[target as usize]),
        candidate_nll: log_z_b - f64::from(candidate[target as usize]),
        same_top1: top_a[0] == top_b[0],
        top5_overlap: shared as f64 / top_a.len().min(reference.len()) as f64,
        max_difference,
        mean_square_difference: squares / reference.len() as f64,
    }
}

/// [`distance`] of each row; rows are `stride` apart, of which the first `vocab_size` numbers count.
pub fn distances(
    reference: &[f32],
    candidate: &[f32],
    [reference_stride, candidate_stride]: [usize; 2],
    vocab_size: usize,
    targets: &[u32],
) -> Vec<Distance> {
    targets
        .par_iter()
        .enumerate()
        .map(|(i, target)| {
            let a = &reference[i * reference_stride..][..vocab_size];
            let b = &candidate[i * candidate_stride..][..vocab_size];
            distance(a, b, *target)
        })
        .collect()
}

/// A token and its probability.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Likely {
    /// Its id.
    pub token: u32,
    /// Softmax over the row that it was found in.
    pub probability: f64,
}

/// The five likeliest tokens of a row of logits over the true vocabulary, likeliest first; fewer of a smaller vocabulary.
pub fn likeliest(logits: &[f32]) -> Vec<Likely> {
    let log_z = log_sum_exp(logits);
    let found = top::<5>(logits).into_iter().filter(|t| *t < logits.len());
    found.map(|t| Likely { token: t as u32, probability: (f64::from(logits[t]) - log_z).exp() }).collect()
}

fn log_sum_exp(x: &[f32]) -> f64 {
    let max = f64::from(x.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b)));
    max + x.iter().map(|x| (f64::from(*x) - max).exp()).sum::<f64>().ln()
}

/// Indices of the N largest numbers, largest first; of equal ones the first comes first. Short rows repeat `usize::MAX`.
fn top<const N: usize>(x: &[f32]) -> [usize; N] {
    let mut best = [usize::MAX; N];
    let mut least = f32::NEG_INFINITY;
    for (i, &value) in x.iter().enumerate() {
        if best[N - 1] != usize::MAX && value <= least {
            continue;
        }
        let place = best.iter().position(|&b| b == usize::MAX || x[b] < value).unwrap_or(N);
        if place < N {
            best[place..].rotate_right(1);
            best[place] = i;
            least = best.iter().rfind(|b| **b != usize::MAX).map_or(f32::NEG_INFINITY, |b| x[*b]);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_against_itself_is_zero() {
        let x: Vec<f32> = (0..1000).map(|i| (i as f32).sin() * 9.0).collect();
        let d = distance(&x, &x, 3);
        assert_eq!((d.kld, d.same_top1, d.top5_overlap, d.max_difference), (0.0, true, 1.0, 0.0));
    }

    #[test]
    fn kl_divergence_of_two_coins() {
        let (p, q) = (0.75f64, 0.5f64);
        let d = distance(&[p.ln() as f32, (1.0 - p).ln() as f32], &[0.0, 0.0], 1);
        let truth = p * (p / q).ln() + (1.0 - p) * ((1.0 - p) / (1.0 - q)).ln();
        assert!((d.kld - truth).abs() < 1e-7);
        assert!((d.reference_nll + 0.25f64.ln()).abs() < 1e-7 && (d.candidate_nll - 2f64.ln()).abs() < 1e-12);
    }

    #[test]
    fn the_likeliest_tokens_of_three() {
        let found = likeliest(&[0.5f64.ln() as f32, 0.2f64.ln() as f32, 0.3f64.ln() as f32]);
        assert_eq!(found.iter().map(|l| l.token).collect::<Vec<_>>(), [0, 2, 1]);
        assert!(found.iter().zip([0.5, 0.3, 0.2]).all(|(l, p)| (l.probability - p).abs() < 1e-7), "{found:?}");
    }

    #[test]
    fn top_ranks_like_a_sort() {
        let x: Vec<f32> = (0..200).map(|i| ((i * 7919) % 101) as f32).collect();
        let mut sorted: Vec<usize> = (0..x.len()).collect();
        sorted.sort_by(|a, b| x[*b].total_cmp(&x[*a]).then(a.cmp(b)));
        assert_eq!(top::<5>(&x).as_slice(), &sorted[..5]);
    }
}
