//! Calibrated rounding leaves less output error than the search that knows the diagonal alone, in every format, whatever
//! the thread count.

use tamborim_quant::{Effort, Error, Format, Hessian, Moments, Tensor};

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
