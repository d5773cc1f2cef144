//! Calibrated rounding leaves less output error than the search that knows the diagonal alone, in every format, whatever
//! the thread count.

use std::sync::Arc;
use tamborim_quant::{Effort, Error, Format, Hessian, Lack, Moments, NBits, NBitsMatrix, RowInputs, Tensor};

const COLS: usize = 512;
const ROWS: usize = 21;

/// Deterministic numbers, roughly normal.
fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut uniform = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..n).map(|_| (0..6).map(|_| uniform()).sum()).collect()
}

/// Moments of inputs whose channels follow a few common directions, of very different energies; two channels are dead.
fn moments(block: usize) -> Moments {
    let (tokens, common) = (900, 24);
    let (directions, own, mix) = (noise(common * COLS, 1), noise(tokens * COLS, 2), noise(tokens * common, 3));
    let mut m = Moments::new(vec!["map".to_owned()], COLS, block);
    m.count = tokens as u64;
    let mut x = vec![0.0f64; COLS];
    for t in 0..tokens {
        for (j, x) in x.iter_mut().enumerate() {
            let shared: f32 = (0..common).map(|k| mix[t * common + k] * directions[k * COLS + j]).sum();
            let energy = if j % 300 == 7 { 0.0 } else { 0.2 + (j % 11) as f32 };
            *x = f64::from(energy * (shared + 0.5 * own[t * COLS + j]));
        }
        let mut at = 0;
        for first in (0..COLS).step_by(block) {
            for i in first..COLS.min(first + block) {
                for j in first..=i {
                    m.lower[at] += x[i] * x[j];
                    at += 1;
                }
            }
        }
    }
    m
}

fn calibrated(values: &[f32], format: Format, hessian: &Hessian, passes: usize) -> Tensor<'static> {
    Tensor::quantize_calibrated(values, vec![ROWS, COLS], format, hessian, Effort { passes }).unwrap()
}

#[test]
fn every_format_gains_by_feedback_and_again_by_refinement() {
    let values = noise(ROWS * COLS, 9);
    let hessian = Hessian::new(&moments(COLS));
    for &format in Format::ALL.iter().filter(|f| f.is_quantized()) {
        let error = |t: Tensor<'_>| hessian.output_error(&values, &t.to_f32());
        let plain = Tensor::quantize(&values, vec![ROWS, COLS], format, Some(&hessian.importance())).unwrap();
        let (plain, fed, refined) = (
            error(plain),
            error(calibrated(&values, format, &hessian, 0)),
            error(calibrated(&values, format, &hessian, 3)),
        );
        assert!(fed < 0.6 * plain, "{format}: {plain:e} to {fed:e}");
        assert!(refined < fed, "{format}: {fed:e} to {refined:e}");
    }
}

#[test]
fn diagonal_blocks_are_rounded_one_by_one() {
    let values = noise(ROWS * COLS, 9);
    let (whole, halves) = (Hessian::new(&moments(COLS)), Hessian::new(&moments(COLS / 2)));
    let plain = Tensor::quantize(&values, vec![ROWS, COLS], Format::Q4K, Some(&halves.importance())).unwrap();
    let found = calibrated(&values, Format::Q4K, &halves, 2);
    let error = |t: &Tensor<'_>| whole.output_error(&values, &t.to_f32());
    assert!(error(&found) < error(&plain));
}

#[test]
fn threads_do_not_change_the_bytes() {
    let values = noise(ROWS * COLS, 4);
    let hessian = Hessian::new(&moments(COLS));
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| calibrated(&values, Format::Q5K, &hessian, 1))
    };
    assert!(on(1) == on(3));
}

#[test]
fn a_hessian_of_another_input_is_refused() {
    let hessian = Hessian::new(&Moments::new(vec!["map".to_owned()], 32, 32));
    let found = Tensor::quantize_calibrated(&[0.0; 64], vec![1, 64], Format::Q8_0, &hessian, Effort::default());
    assert_eq!(found, Err(Error::HessianExtent { expected: 64, found: 32 }));
}

#[test]
fn zeros_and_inputs_never_seen_stay_finite() {
    let unseen = Hessian::new(&Moments::new(vec!["map".to_owned()], COLS, COLS));
    for &format in Format::ALL {
        for values in [vec![0.0; ROWS * COLS], noise(ROWS * COLS, 8)] {
            let found = calibrated(&values, format, &unseen, 1).to_f32();
            assert!(found.iter().all(|x| x.is_finite()), "{format}");
            assert!(unseen.output_error(&values, &found) < 0.02, "{format}");
        }
    }
}

/// Means of products of columns: `E[a b^T]` of rows of `n` and `m` numbers.
fn products(a: &[f64], n: usize, b: &[f64], m: usize) -> Vec<f64> {
    let tokens = a.len() / n;
    let cell = |k: usize| (0..tokens).map(|t| a[t * n + k / m] * b[t * m + k % m]).sum::<f64>() / tokens as f64;
    (0..n * m).map(cell).collect()
}

#[test]
fn corrected_weights_are_the_least_squares_ones() {
    let (tokens, channels, outputs) = (400, 70, 37);
    let wide = |x: Vec<f32>| x.into_iter().map(f64::from).collect::<Vec<_>>();
    let (x, noise_of_q, residual) =
        (wide(noise(tokens * channels, 21)), wide(noise(tokens * channels, 22)), wide(noise(tokens * outputs, 23)));
    // Inputs that were scaled, mixed and disturbed on the way.
    let q: Vec<f64> = (0..x.len())
        .map(|i| 0.8 * x[i] + 0.3 * x[i / channels * channels + (i + 1) % channels] + 0.2 * noise_of_q[i])
        .collect();
    let weights = noise(outputs * channels, 24);
    let product = |w: &[f32], x: &[f64]| -> Vec<f64> {
        let cell = |k: usize| {
            let (row, x) = (&w[k % outputs * channels..][..channels], &x[k / outputs * channels..][..channels]);
            row.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum()
        };
        (0..tokens * outputs).map(cell).collect()
    };
    let less = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a - b).collect::<Vec<_>>();
    let mut moments = Moments::new(vec!["map".to_owned()], channels, channels);
    moments.count = 1;
    let square = products(&q, channels, &q, channels);
    moments.lower = (0..channels).flat_map(|i| square[i * channels..][..=i].to_vec()).collect();
    let hessian = Hessian::damped(&moments, 1e-9);
    // What the output lacks is orthogonal to the inputs once it is made up for.
    let (expected, found) = (product(&weights, &x), product(&weights, &q));
    let added: Vec<f64> = expected.iter().zip(&residual).map(|(y, r)| y + r).collect();
    let input = products(&less(&x, &q), channels, &q, channels);
    let output = products(&less(&added, &found), outputs, &q, channels);
    for (lack, wanted) in [(Lack::Input(&input), &expected), (Lack::Output(&output), &added)] {
        let correction = hessian.correction(lack).unwrap();
        let corrected_by = |share| {
            let mut corrected = weights.clone();
            correction.add_to(&mut corrected, channels, share).unwrap();
            corrected
        };
        let corrected = corrected_by(1.0);
        let left = products(&less(wanted, &product(&corrected, &q)), outputs, &q, channels);
        let before = products(&less(wanted, &found), outputs, &q, channels);
        let norm = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
        assert!(norm(&left) < 1e-4 * norm(&before), "{} of {}", norm(&left), norm(&before));
        let half = corrected_by(0.5);
        let middle = weights.iter().zip(&corrected).map(|(a, b)| (a + b) / 2.0);
        assert!(half.iter().zip(middle).all(|(a, b)| (a - b).abs() < 1e-5));
    }
    let of_outputs = Lack::Input(&input).of_outputs(&weights, channels).unwrap();
    let wanted = products(&less(&expected, &found), outputs, &q, channels);
    assert!(
        of_outputs
            .iter()
            .zip(&wanted)
            .all(|(a, b)| (a - b).abs() < 1e-4 * wanted.iter().fold(0.0, |m, x| x.abs().max(m)))
    );
    assert!(Lack::Input(&input).of_outputs(&weights, channels - 1).is_err());
    assert!(hessian.correction(Lack::Input(&input[1..])).is_err());
    let correction = hessian.correction(Lack::Output(&output)).unwrap();
    assert!(correction.add_to(&mut weights[channels..].to_vec(), channels, 1.0).is_err());
}

/// Inputs of a head, each likely to be followed by one token, and the probabilities of all.
fn predictions(count: usize) -> (Vec<f32>, Vec<f32>) {
    let (directions, own) = (noise(ROWS * COLS, 31), noise(count * COLS, 32));
    let inputs = (0..count * COLS).map(|k| own[k] + directions[k / COLS % ROWS * COLS + k % COLS]).collect();
    let probability = |k: usize| if k % ROWS == k / ROWS % ROWS { 0.6 } else { 0.4 / (ROWS - 1) as f32 };
    (inputs, (0..count * ROWS).map(probability).collect())
}

#[test]
fn rows_of_a_head_are_rounded_for_the_inputs_after_which_their_token_is_plausible() {
    // More inputs than a row's samples may be.
    let count = 3000;
    let (inputs, probabilities) = predictions(count);
    let mut row_inputs = RowInputs::new(count, COLS, ROWS);
    let (first, rest) = (inputs.split_at(100 * COLS), probabilities.split_at(100 * ROWS));
    row_inputs.add(first.0, rest.0);
    row_inputs.add(first.1, rest.1);
    let mut moments = Moments::new(vec!["head".to_owned()], COLS, COLS);
    moments.count = count as u64;
    for x in inputs.chunks_exact(COLS) {
        let mut at = 0;
        for i in 0..COLS {
            for j in 0..=i {
                moments.lower[at] += f64::from(x[i]) * f64::from(x[j]);
                at += 1;
            }
        }
    }
    let shared = Hessian::new(&moments);
    let own = shared.clone().with_row_inputs(Arc::new(row_inputs));
    let values = noise(ROWS * COLS, 9);
    // What the divergence has of every row's own errors.
    let cost = |found: &[f32]| -> f64 {
        let e: Vec<f32> = values.iter().zip(found).map(|(w, q)| w - q).collect();
        let of = |(x, p): (&[f32], &[f32])| -> f64 {
            let error = |e: &[f32]| e.iter().zip(x).map(|(e, x)| f64::from(e * x)).sum::<f64>();
            e.chunks_exact(COLS).zip(p).map(|(e, p)| f64::from(p * (1.0 - p)) * error(e).powi(2)).sum()
        };
        inputs.chunks_exact(COLS).zip(probabilities.chunks_exact(ROWS)).map(of).sum()
    };
    for &format in Format::ALL.iter().filter(|f| f.is_quantized()) {
        let [shared, own] = [&shared, &own].map(|h| cost(&calibrated(&values, format, h, 2).to_f32()));
        assert!(own < 0.98 * shared, "{format}: {shared:e} to {own:e}");
    }
    for (bits, block, zero_points) in [(4, 32, true), (4, 128, false), (8, 16, true)] {
        let grid = NBits::new(bits, block, zero_points, Format::F32).unwrap();
        let [shared, own] = [&shared, &own].map(|h| {
            let found = NBitsMatrix::quantize_calibrated(&values, [ROWS, COLS], grid, h, Effort::default());
            cost(&found.unwrap().to_f32())
        });
        assert!(own < 0.98 * shared, "{grid}: {shared:e} to {own:e}");
    }
}
