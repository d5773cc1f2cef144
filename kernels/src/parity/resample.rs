//! How sure the means are: the bootstrap over blocks of text.
//!
//! Positions of one document resemble each other, so the document is what is drawn, with replacement, as often as there are
//! documents (Davison and Hinkley, Bootstrap Methods and their Application, 1997, sections 2.4 and 3.8).

use super::Distance;
use super::statistics::quantile;
use rayon::prelude::*;

/// Times that the text is drawn anew.
pub const RESAMPLES: usize = 2000;
/// Share of the redrawn texts inside an interval.
pub const CONFIDENCE: f64 = 0.95;
/// Of the draws: the same text gives the same intervals.
const SEED: u64 = 0x5eed;

/// What redrawn texts say of a mean.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Uncertainty {
    /// Standard deviation.
    pub stderr: f64,
    /// From the lower to the upper end.
    pub interval: [f64; 2],
}

/// Sums over the positions of a block.
#[derive(Clone, Copy, Default)]
struct Sums {
    positions: f64,
    kld: f64,
    same_top1: f64,
    log_ratio: f64,
}

impl Sums {
    fn add(&mut self, other: &Sums) {
        self.positions += other.positions;
        self.kld += other.kld;
        self.same_top1 += other.same_top1;
        self.log_ratio += other.log_ratio;
    }
}

/// Uncertainty of the mean KL divergence, of the share of equal likeliest tokens, and of the perplexity ratio; `blocks` are
/// those of the positions.
pub fn uncertainties(positions: &[Distance], blocks: &[u32]) -> [Uncertainty; 3] {
    let sums = by_block(positions, blocks);
    let drawn: Vec<[f64; 3]> = (0..RESAMPLES as u64)
        .into_par_iter()
        .map(|i| {
            let mut random = fastrand::Rng::with_seed(SEED + i);
            let mut total = Sums::default();
            (0..sums.len()).for_each(|_| total.add(&sums[random.usize(..sums.len())]));
            let n = total.positions.max(1.0);
            [total.kld / n, total.same_top1 / n, (total.log_ratio / n).exp()]
        })
        .collect();
    std::array::from_fn(|k| uncertainty(drawn.iter().map(|d| d[k]).collect()))
}

fn by_block(positions: &[Distance], blocks: &[u32]) -> Vec<Sums> {
    let first = blocks.iter().min().copied().unwrap_or(0);
    let last = blocks.iter().max().copied().unwrap_or(0);
    let mut sums = vec![Sums::default(); (last - first) as usize + 1];
    for (d, block) in positions.iter().zip(blocks) {
        sums[(block - first) as usize].add(&Sums {
            positions: 1.0,
            kld: d.kld,
            same_top1: f64::from(u8::from(d.same_top1)),
            log_ratio: d.candidate_nll - d.reference_nll,
        });
    }
    sums.retain(|s| s.positions > 0.0);
    sums
}

fn uncertainty(mut drawn: Vec<f64>) -> Uncertainty {
    drawn.sort_by(f64::total_cmp);
    let mean = drawn.iter().sum::<f64>() / drawn.len() as f64;
    let variance = drawn.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / drawn.len() as f64;
    let tail = (1.0 - CONFIDENCE) / 2.0;
    Uncertainty { stderr: variance.sqrt(), interval: [quantile(&drawn, tail), quantile(&drawn, 1.0 - tail)] }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize) -> Vec<Distance> {
        let mut random = fastrand::Rng::with_seed(3);
        (0..n).map(|_| Distance { kld: random.f64(), same_top1: random.bool(), ..Distance::default() }).collect()
    }

    /// Standard error of a ratio of sums over blocks, by linearization.
    fn linearized(positions: &[Distance], blocks: &[u32]) -> f64 {
        let sums = by_block(positions, blocks);
        let n = positions.len() as f64;
        let mean = positions.iter().map(|d| d.kld).sum::<f64>() / n;
        sums.iter().map(|s| (s.kld - s.positions * mean).powi(2)).sum::<f64>().sqrt() / n
    }

    #[test]
    fn independent_positions_have_the_textbook_error() {
        let positions = numbers(2000);
        let blocks: Vec<u32> = (0..2000).collect();
        let [kld, same, _] = uncertainties(&positions, &blocks);
        // Uniform numbers: deviation 1 / sqrt 12; a coin: 1 / 2. 2000 draws know a deviation to 1.6 %.
        assert!((kld.stderr / (1.0 / (12.0 * 2000.0f64).sqrt()) - 1.0).abs() < 0.08, "{kld:?}");
        assert!((same.stderr / (0.5 / 2000.0f64.sqrt()) - 1.0).abs() < 0.08, "{same:?}");
        let mean = positions.iter().map(|d| d.kld).sum::<f64>() / 2000.0;
        let [low, high] = kld.interval;
        assert!(low < mean && mean < high && ((high - low) / (2.0 * 1.96 * kld.stderr) - 1.0).abs() < 0.08, "{kld:?}");
    }

    #[test]
    fn positions_that_repeat_each_other_count_once() {
        // 100 blocks of uneven length, all positions of a block alike.
        let few = numbers(100);
        let blocks: Vec<u32> = (0..100u32).flat_map(|b| vec![b; 5 + (b as usize * 7) % 40]).collect();
        let positions: Vec<Distance> = blocks.iter().map(|b| few[*b as usize]).collect();
        let [kld, ..] = uncertainties(&positions, &blocks);
        let alone: Vec<u32> = (0..blocks.len() as u32).collect();
        let [naive, ..] = uncertainties(&positions, &alone);
        assert!(kld.stderr > 3.0 * naive.stderr, "{kld:?} {naive:?}");
        assert!((kld.stderr / linearized(&positions, &blocks) - 1.0).abs() < 0.08, "{kld:?}");
    }

    #[test]
    fn equal_models_are_equal_for_sure_and_nothing_is_nothing() {
        let same = Distance { same_top1: true, ..Distance::default() };
        let [kld, top1, ratio] = uncertainties(&[same; 50], &(0..50).collect::<Vec<_>>());
        assert_eq!((kld.interval, top1.interval, ratio.interval), ([0.0; 2], [1.0; 2], [1.0; 2]));
        assert_eq!((kld.stderr, top1.stderr, ratio.stderr), (0.0, 0.0, 0.0));
        assert_eq!(uncertainties(&[], &[])[0].interval, [0.0; 2]);
    }
}
