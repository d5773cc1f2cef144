use super::Distance;
use super::resample::{Uncertainty, uncertainties};

/// How a number is spread over positions. Quantiles interpolate linearly between neighbours, as numpy's do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// Mean.
    pub mean: f64,
    /// 50 % are below.
    pub median: f64,
    /// 90 % are below.
    pub p90: f64,
    /// 99 % are below.
    pub p99: f64,
    /// 99.9 % are below.
    pub p999: f64,
    /// The largest.
    pub max: f64,
}

/// What many positions say together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// KL(reference || candidate), nats.
    pub kld: Spread,
    /// How sure its mean is.
    pub kld_uncertainty: Uncertainty,
    /// Share of positions with the same likeliest token.
    pub top1_agreement: f64,
    /// How sure that is.
    pub top1_uncertainty: Uncertainty,
    /// Mean share of the reference's five likeliest tokens among the candidate's five.
    pub top5_agreement: f64,
    /// exp of the mean negative log likelihood of the text.
    pub reference_perplexity: f64,
    /// The same of the candidate.
    pub candidate_perplexity: f64,
    /// Candidate's over reference's: exp of the mean difference.
    pub perplexity_ratio: f64,
    /// How sure that is.
    pub perplexity_ratio_uncertainty: Uncertainty,
    /// Largest difference of any two logits.
    pub max_difference: f64,
    /// Root of the mean squared difference of logits.
    pub rms_difference: f64,
}

/// [`Spread`] of `values`; zeros for none.
pub fn spread(values: impl Iterator<Item = f64>) -> Spread {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    Spread {
        mean: mean(sorted.iter().copied()),
        median: quantile(&sorted, 0.5),
        p90: quantile(&sorted, 0.9),
        p99: quantile(&sorted, 0.99),
        p999: quantile(&sorted, 0.999),
        max: quantile(&sorted, 1.0),
    }
}

/// The number that a share `q` of sorted numbers is below; 0 of none.
pub fn quantile(sorted: &[f64], q: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let at = q * last as f64;
    let (below, above) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    below + (above - below) * at.fract()
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, n) = values.fold((0.0, 0u64), |(sum, n), v| (sum + v, n + 1));
    sum / n.max(1) as f64
}

/// exp of the mean negative log likelihood of the text, under the reference and under the candidate.
pub fn perplexities<'d>(positions: impl Iterator<Item = &'d Distance> + Clone) -> [f64; 2] {
    [mean(positions.clone().map(|d| d.reference_nll)).exp(), mean(positions.map(|d| d.candidate_nll)).exp()]
}

/// [`Summary`] of positions, which are in `blocks` of text; of none, zeros and ratios of 1.
pub fn summarize(positions: &[Distance], blocks: &[u32]) -> Summary {
    let mean = |f: fn(&Distance) -> f64| mean(positions.iter().map(f));
    let [reference_perplexity, candidate_perplexity] = perplexities(positions.iter());
    let [kld_uncertainty, top1_uncertainty, perplexity_ratio_uncertainty] = uncertainties(positions, blocks);
    Summary {
        kld: spread(positions.iter().map(|d| d.kld)),
        kld_uncertainty,
        top1_agreement: mean(|d| f64::from(u8::from(d.same_top1))),
        top1_uncertainty,
        top5_agreement: mean(|d| d.top5_overlap),
        reference_perplexity,
        candidate_perplexity,
        perplexity_ratio: mean(|d| d.candidate_nll - d.reference_nll).exp(),
        perplexity_ratio_uncertainty,
        max_difference: positions.iter().map(|d| f64::from(d.max_difference)).fold(0.0, f64::max),
        rms_difference: mean(|d| d.mean_square_difference).sqrt(),
    }
}

/// How many values lie between two.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bin {
    /// Included.
    pub from: f64,
    /// Excluded.
    pub to: f64,
    /// Values in between.
    pub count: usize,
}

/// Bins of a decade.
const BINS: i32 = 5;
/// Decades below 1 that have bins; what is smaller, zeros included, shares the first.
const DECADES: i32 = 12;

/// Values that are not negative, in bins of equal width on a logarithmic scale, from the first to the last that holds any.
pub fn log_histogram(values: impl Iterator<Item = f64>) -> Vec<Bin> {
    let edge =
        |bin: i32| if bin == 0 { 0.0 } else { 10f64.powf(f64::from(bin) / f64::from(BINS) - f64::from(DECADES)) };
    let mut counts: Vec<usize> = Vec::new();
    for value in values {
        let bin = ((value.log10() + f64::from(DECADES)) * f64::from(BINS)).floor().max(0.0) as usize;
        counts.resize(counts.len().max(bin + 1), 0);
        counts[bin] += 1;
    }
    let bins = counts.iter().zip(0..).map(|(count, i)| Bin { from: edge(i), to: edge(i + 1), count: *count });
    bins.skip_while(|bin| bin.count == 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_in_its_bin() {
        let values = [0.0, 1e-14, 2e-6, 0.0031, 0.0032, 0.5, 7.0];
        let bins = log_histogram(values.into_iter());
        assert_eq!(bins.iter().map(|b| b.count).sum::<usize>(), values.len());
        assert_eq!((bins[0].from, bins[0].count), (0.0, 2));
        for value in values {
            assert_eq!(bins.iter().filter(|b| (b.from..b.to).contains(&value) && b.count > 0).count(), 1, "{value}");
        }
        assert!(bins.windows(2).all(|pair| pair[0].to == pair[1].from));
        assert!(log_histogram([1.0].into_iter()).len() == 1 && log_histogram([].into_iter()).is_empty());
    }
}
