use super::Distance;

/// How a number is spread over positions. Quantiles interpolate linearly between neighbours, as numpy's do.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Spread {
    /// Mean.
    pub mean: f64,
    /// Standard error of the mean, positions taken as independent.
    pub stderr: f64,
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
    /// Share of positions with the same likeliest token.
    pub top1_agreement: f64,
    /// Mean share of the reference's five likeliest tokens among the candidate's five.
    pub top5_agreement: f64,
    /// exp of the mean negative log likelihood of the text.
    pub reference_perplexity: f64,
    /// The same of the candidate.
    pub candidate_perplexity: f64,
    /// Candidate's over reference's: exp of the mean difference.
    pub perplexity_ratio: f64,
    /// Standard error of the ratio, to first order.
    pub perplexity_ratio_stderr: f64,
    /// Largest difference of any two logits.
    pub max_difference: f64,
    /// Root of the mean squared difference of logits.
    pub rms_difference: f64,
}

/// [`Spread`] of `values`; zeros for none.
pub fn spread(values: impl Iterator<Item = f64>) -> Spread {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    let (mean, stderr) = mean_and_stderr(sorted.iter().copied());
    let quantile = |q: f64| {
        let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
        let at = q * last as f64;
        let (below, above) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
        below + (above - below) * at.fract()
    };
    Spread {
        mean,
        stderr,
        median: quantile(0.5),
        p90: quantile(0.9),
        p99: quantile(0.99),
        p999: quantile(0.999),
        max: quantile(1.0),
    }
}

/// Mean, and its standard error (population deviation over the root of the count); zeros for none.
pub fn mean_and_stderr(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let n = values.clone().count().max(1) as f64;
    let mean = values.clone().sum::<f64>() / n;
    let variance = values.map(|v| (v - mean).powi(2)).sum::<f64>() / n;
    (mean, (variance / n).sqrt())
}

/// [`Summary`] of positions; of none, zeros and ratios of 1.
pub fn summarize(positions: &[Distance]) -> Summary {
    let mean = |f: fn(&Distance) -> f64| mean_and_stderr(positions.iter().map(f));
    let (log_ratio, log_ratio_stderr) = mean(|d| d.candidate_nll - d.reference_nll);
    let perplexity_ratio = log_ratio.exp();
    Summary {
        kld: spread(positions.iter().map(|d| d.kld)),
        top1_agreement: mean(|d| f64::from(u8::from(d.same_top1))).0,
        top5_agreement: mean(|d| d.top5_overlap).0,
        reference_perplexity: mean(|d| d.reference_nll).0.exp(),
        candidate_perplexity: mean(|d| d.candidate_nll).0.exp(),
        perplexity_ratio,
        perplexity_ratio_stderr: perplexity_ratio * log_ratio_stderr,
        max_difference: positions.iter().map(|d| f64::from(d.max_difference)).fold(0.0, f64::max),
        rms_difference: mean(|d| d.mean_square_difference).0.sqrt(),
    }
}
