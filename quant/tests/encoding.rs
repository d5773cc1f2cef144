//! Encoders: errors against ggml's on the same numbers, extreme values, equal bytes whatever the way.

mod data;

use data::{COLS, ROWS, data_set};
use std::collections::HashMap;
use tamborim_quant::{Format, Tensor};

fn importance() -> Vec<f32> {
    data::uniform(COLS, 97).iter().map(|u| (0.03125 + (u * u) * (u * u)) as f32).collect()
}

fn encode(format: Format, values: &[f32], importance: Option<&[f32]>) -> Vec<f32> {
    Tensor::quantize(values, vec![values.len() / COLS, COLS], format, importance).unwrap().to_f32()
}

#[test]
fn errors_are_at_or_below_those_of_ggml() {
    let importance = importance();
    let mut data = HashMap::new();
    for line in include_str!("goldens/errors.txt").lines() {
        let [gguf_type, name, plain, weighed] = line.split(' ').collect::<Vec<_>>().try_into().unwrap();
        let format = Format::from_gguf_type(gguf_type.parse().unwrap()).unwrap();
        let x = data.entry(name).or_insert_with(|| data_set(name));
        for (importance, ggml) in [(None, plain), (Some(&importance[..]), weighed)] {
            let ggml: f64 = ggml.parse().unwrap();
            let y = encode(format, x, importance);
            let error = |i: usize| {
                let e = (x[i] - y[i]) as f64;
                e * e * importance.map_or(1.0, |a| a[i % COLS] as f64)
            };
            let ours = (0..x.len()).map(error).sum::<f64>() / x.len() as f64;
            let how = if importance.is_some() { "with importance" } else { "plain" };
            println!("{format} {name} {how}: {:.4} of ggml's error", ours / ggml);
            assert!(ours <= ggml * 1.0001, "{format} {name} {how}: {ours:e}, ggml {ggml:e}");
        }
    }
}

#[test]
fn bytes_do_not_depend_on_threads_or_on_the_way() {
    let x = data_set("heavy");
    let importance = importance();
    for &format in Format::ALL {
        for importance in [None, Some(&importance[..])] {
            let mut by_row = vec![0; format.row_bytes(x.len()).unwrap()];
            for (x, out) in x.chunks(COLS).zip(by_row.chunks_mut(format.row_bytes(COLS).unwrap())) {
                format.encode(x, importance, out);
            }
            for threads in [1, 3] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let mut rows = vec![0; by_row.len()];
                pool.install(|| format.encode_rows(&x, COLS, importance, &mut rows));
                assert!(rows == by_row, "{format}, {threads} threads");
            }
            let source = Tensor::quantize(&x, vec![ROWS, COLS], Format::F32, None).unwrap();
            assert!(*source.recode(format, importance).unwrap().bytes == by_row, "{format} recoded");
        }
    }
}

#[test]
fn floats_come_back_and_formats_are_stable() {
    let x: Vec<f32> = data_set("heavy").iter().map(|x| half::bf16::from_f32(*x).to_f32()).collect();
    assert_eq!(encode(Format::F32, &x, None), x);
    assert_eq!(encode(Format::Bf16, &x, None), x);
    let half: Vec<f32> = x.iter().map(|x| half::f16::from_f32(*x).to_f32()).collect();
    assert_eq!(encode(Format::F16, &half, None), half);
    // What is already on a grid of levels is found again, up to the rounding of scales.
    for &format in Format::ALL {
        let once = encode(format, &x, None);
        let twice = encode(format, &once, None);
        let square = |v: &[f32]| v.iter().map(|a| (a * a) as f64).sum::<f64>();
        let gap: Vec<f32> = once.iter().zip(&twice).map(|(a, b)| a - b).collect();
        let first: Vec<f32> = once.iter().zip(&x).map(|(a, b)| a - b).collect();
        assert!(square(&gap) <= 0.35 * square(&first), "{format}: {:e} of {:e}", square(&gap), square(&first));
    }
}

#[test]
fn zeros_stay_zeros() {
    for &format in Format::ALL {
        for zero in [0.0, -0.0] {
            let y = encode(format, &vec![zero; 2 * COLS], Some(&vec![0.0; COLS]));
            assert!(y.iter().all(|y| *y == 0.0), "{format}");
        }
    }
}

#[test]
fn finite_numbers_of_any_size_decode_to_finite_ones() {
    for &format in Format::ALL {
        for size in [f32::MAX, 1e30, 3e8, 6e7, 7e6, 1e6, 70000.0, 1e-3, 1e-6, 1e-9, 1e-20, 1e-38, 1e-45] {
            for pattern in 0..4 {
                let x: Vec<f32> = (0..COLS)
                    .map(|i| match pattern {
                        0 => size,
                        1 => -size,
                        2 => [size, -size, size / 3.0, 0.0][i % 4],
                        _ => {
                            if i == 700 {
                                size
                            } else {
                                (i as f32 - 500.0) * 1e-4
                            }
                        }
                    })
                    .collect();
                let y = encode(format, &x, None);
                assert!(y.iter().all(|y| y.is_finite()), "{format}, {size:e}, pattern {pattern}");
                let largest = |v: &[f32]| v.iter().fold(0f32, |m, v| m.max(v.abs()));
                assert!(largest(&y) <= largest(&x) * 1.2 + 1e-6, "{format}, {size:e}, pattern {pattern}");
                if (1e-3..=60000.0).contains(&size) && pattern < 2 {
                    // At 1e-3 the scales of K-quants and iq4_xs are subnormal f16 numbers, a few per cent apart.
                    let close = |(x, y): (&f32, &f32)| (x - y).abs() <= 0.035 * x.abs();
                    assert!(x.iter().zip(&y).all(close), "{format}, {size:e}: {}", y[0]);
                }
            }
        }
    }
}

#[test]
fn nan_and_infinities_do_not_panic_and_stay_in_their_block() {
    for &format in Format::ALL {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let clean = data_set("gaussian");
            let mut x = clean.clone();
            x[5] = bad;
            let (y, z) = (encode(format, &x, None), encode(format, &clean, None));
            assert!(y[256..] == z[256..], "{format}");
            if format.is_quantized() {
                assert!(y.iter().all(|y| y.is_finite()), "{format}, {bad}");
            } else {
                assert!(!y[5].is_finite(), "{format}, {bad}");
            }
            // Importance is anyone's file: nothing in it may make a finite tensor infinite.
            let weights: Vec<f32> = (0..COLS).map(|i| [bad, 0.0, -1.0, f32::MAX, 1e-40][i % 5]).collect();
            assert!(encode(format, &clean, Some(&weights)).iter().all(|y| y.is_finite()), "{format}, {bad}");
        }
    }
}

#[test]
fn importance_moves_error_to_unimportant_columns() {
    let x = data_set("gaussian");
    let weights: Vec<f32> = (0..COLS).map(|i| if i % 8 == 0 { 100.0 } else { 1.0 }).collect();
    let error = |y: &[f32]| -> f64 { (0..x.len()).step_by(8).map(|i| ((x[i] - y[i]) as f64).powi(2)).sum() };
    // All quantized formats but Q8_0.
    for &format in Format::ALL.iter().filter(|f| f.is_quantized() && **f != Format::Q8_0) {
        let (plain, weighed) = (error(&encode(format, &x, None)), error(&encode(format, &x, Some(&weights))));
        assert!(weighed < 0.85 * plain, "{format}: {weighed:e} of {plain:e}");
    }
    assert_eq!(encode(Format::Q8_0, &x, None), encode(Format::Q8_0, &x, Some(&weights)));
}
