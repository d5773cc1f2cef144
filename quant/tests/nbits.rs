//! MatMulNBits: arrays as onnxruntime has them, errors below its quantizer's, calibrated rounding in every grid.

mod data;

use data::{COLS, ROWS, data_set};
use tamborim_quant::{Effort, Error, Format, Hessian, Moments, NBits, NBitsMatrix, Tensor};

/// All grids with this type of scales.
fn grids(scales: Format) -> Vec<NBits> {
    let mut grids = Vec::new();
    for bits in [4, 8] {
        for block_len in [16, 32, 64, 128] {
            for zero_points in [false, true] {
                grids.push(NBits::new(bits, block_len, zero_points, scales).unwrap());
            }
        }
    }
    grids
}

fn squared_error(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>() / a.len() as f64
}

/// Moments of inputs that follow a few directions: neighbours are alike.
fn hessian(cols: usize) -> Hessian {
    let mut m = Moments::new(vec!["map".to_owned()], cols, cols);
    m.count = 1;
    let mut lower = m.lower.iter_mut();
    for i in 0..cols {
        for j in 0..=i {
            let energy = |i: usize| 0.2 + (i % 11) as f64;
            *lower.next().unwrap() = energy(i) * energy(j) * 0.9f64.powi((i - j) as i32);
        }
    }
    Hessian::new(&m)
}

#[test]
fn decodes_what_onnxruntime_decodes() {
    let golden = include_bytes!("goldens/nbits.bin");
    let mut at = 0;
    let mut take = |n: usize| {
        at += n;
        &golden[at - n..at]
    };
    for expected in grids(Format::F32) {
        let [bits, block_len, zero_points, rows, cols] =
            [(); 5].map(|()| u32::from_le_bytes(take(4).try_into().unwrap()) as usize);
        let grid = NBits::new(bits as u8, block_len, zero_points == 1, Format::F32).unwrap();
        assert_eq!(grid, expected);
        let codes = take(rows * grid.code_bytes(cols));
        let scales =
            Tensor::new(Format::F32, vec![rows, grid.blocks(cols)], take(rows * grid.blocks(cols) * 4)).unwrap();
        let zero_points = take(rows * grid.zero_point_bytes(cols));
        let matrix = NBitsMatrix::new(grid, [rows, cols], codes, scales, zero_points).unwrap();
        let numbers: Vec<f32> = take(4 * rows * cols).as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        // Products with an identity are exact; the operator may subtract the zero point after scaling.
        let found = matrix.to_f32();
        assert!(found.iter().zip(&numbers).all(|(a, b)| (a - b).abs() <= 2e-7 * b.abs().max(1.0)), "{grid}");
    }
}

#[test]
fn errors_are_below_those_of_onnxruntime() {
    for line in include_str!("goldens/nbits.txt").lines() {
        let [bits, block, zero, name, theirs] = line.split(' ').collect::<Vec<_>>().try_into().unwrap();
        let grid = NBits::new(bits.parse().unwrap(), block.parse().unwrap(), zero == "1", Format::F32).unwrap();
        let x = data_set(name);
        let ours = squared_error(&x, &NBitsMatrix::quantize(&x, [ROWS, COLS], grid, None).unwrap().to_f32());
        let ratio = ours / theirs.parse::<f64>().unwrap();
        println!("{grid}, {name}: {ratio:.4} of onnxruntime's error");
        assert!(ratio < 1.0, "{grid}, {name}: {ratio}");
    }
}

#[test]
fn arrays_have_the_sizes_of_the_operator_and_come_back() {
    for scales in [Format::F32, Format::F16, Format::Bf16] {
        for grid in grids(scales) {
            // A last block of 8, an odd number of blocks.
            let extent = [3, 2 * grid.block_len() + 8];
            let x = &data_set("heavy")[..extent[0] * extent[1]];
            let matrix = NBitsMatrix::quantize(x, extent, grid, None).unwrap();
            let bits = usize::from(grid.bits());
            assert_eq!(matrix.codes.len(), 3 * 3 * grid.block_len() * bits / 8, "{grid}");
            assert_eq!(matrix.scales.shape, [3, 3]);
            let zero_points = if grid.has_zero_points() { 3 * (3 * bits).div_ceil(8) } else { 0 };
            assert_eq!(matrix.zero_points.len(), zero_points, "{grid}");
            let total = matrix.codes.len() + matrix.scales.bytes.len() + matrix.zero_points.len();
            assert_eq!(total, grid.matrix_bytes(extent[0], extent[1]));
            let NBitsMatrix { codes, scales, zero_points, .. } = matrix.clone();
            assert_eq!(NBitsMatrix::new(grid, extent, codes, scales, zero_points).unwrap(), matrix);
            // What is on a grid already is found again, up to the rounding of scales.
            let (once, tolerance) = (matrix.to_f32(), 0.35 * squared_error(x, &matrix.to_f32()));
            let twice = NBitsMatrix::quantize(&once, extent, grid, None).unwrap().to_f32();
            assert!(squared_error(&once, &twice) <= tolerance, "{grid}");
        }
    }
}

#[test]
fn calibration_lessens_the_output_error_in_every_grid_and_padded_rows() {
    let x = data_set("gaussian");
    for grid in grids(Format::F32).into_iter().chain(grids(Format::F16)) {
        let cols = 4 * grid.block_len() - 24;
        let extent = [19, cols];
        let (x, hessian) = (&x[..19 * cols], hessian(cols));
        let error = |m: NBitsMatrix<'_>| hessian.output_error(x, &m.to_f32());
        let plain = error(NBitsMatrix::quantize(x, extent, grid, Some(&hessian.importance())).unwrap());
        let rounded =
            |passes| error(NBitsMatrix::quantize_calibrated(x, extent, grid, &hessian, Effort { passes }).unwrap());
        let (fed, refined) = (rounded(0), rounded(2));
        assert!(fed < 0.75 * plain, "{grid}: {plain:e} to {fed:e}");
        assert!(refined < fed, "{grid}: {fed:e} to {refined:e}");
    }
}

#[test]
fn rows_do_not_depend_on_their_neighbours() {
    for grid in grids(Format::F32) {
        for blocks in [1, 2, 17, 18] {
            let cols = blocks * grid.block_len() - 3;
            let x = &data_set("shifted")[..7 * cols];
            let alone = x.chunks(cols).flat_map(|x| NBitsMatrix::quantize(x, [1, cols], grid, None).unwrap().to_f32());
            let together = NBitsMatrix::quantize(x, [7, cols], grid, None).unwrap().to_f32();
            assert!(alone.eq(together), "{grid}, {blocks} blocks");
        }
    }
}

#[test]
fn threads_do_not_change_the_arrays() {
    let x = data_set("heavy");
    let hessian = hessian(200);
    for grid in grids(Format::F32) {
        let on = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let effort = Effort { passes: 1 };
            pool.install(|| {
                NBitsMatrix::quantize_calibrated(&x[..40 * 200], [40, 200], grid, &hessian, effort).unwrap()
            })
        };
        assert!(on(1) == on(3), "{grid}");
    }
}

#[test]
fn zeros_stay_zeros_and_finite_numbers_finite() {
    for grid in grids(Format::F32).into_iter().chain(grids(Format::F16)).chain(grids(Format::Bf16)) {
        for size in [0.0, 1e-45, 1e-38, 1e-9, 1e-3, 1.0, 1e6, 1e30, f32::MAX, f32::INFINITY, f32::NAN] {
            for x in [[size; 160], [-size; 160], std::array::from_fn(|i| if i % 2 == 0 { size } else { -0.01 })] {
                let y = NBitsMatrix::quantize(&x, [1, 160], grid, None).unwrap().to_f32();
                assert!(y.iter().all(|y| y.is_finite()), "{grid}, {size:e}");
                if x.iter().all(|x| *x == 0.0) {
                    assert!(y.iter().all(|y| *y == 0.0), "{grid}");
                }
                if (1e-3..=1e5).contains(&size) && x[0] == x[1] {
                    assert!((y[0] - x[0]).abs() <= 0.1 * size, "{grid}, {size:e}: {}", y[0]);
                }
            }
        }
    }
}

#[test]
fn grids_and_arrays_that_do_not_fit_are_refused() {
    for (bits, block_len, scales) in [(2, 32, Format::F32), (4, 24, Format::F32), (4, 32, Format::Q8_0)] {
        assert!(matches!(NBits::new(bits, block_len, true, scales), Err(Error::NBits { .. })));
    }
    let grid = NBits::new(4, 32, true, Format::F32).unwrap();
    let scales = Tensor::new(Format::F32, vec![2, 2], vec![0; 16]).unwrap();
    let with = |codes: usize, zeros: usize| {
        NBitsMatrix::new(grid, [2, 40], vec![0; codes], scales.clone(), vec![0; zeros]).map(|_| ())
    };
    assert_eq!(with(64, 2), Ok(()));
    let wrong = |what, expected, found| Err(Error::NBitsLength { what, shape: [2, 40], expected, found });
    assert_eq!(with(63, 2), wrong("codes", 64, 63));
    assert_eq!(with(64, 3), wrong("zero points", 2, 3));
    let huge = NBitsMatrix::new(grid, [usize::MAX, usize::MAX], vec![], scales.clone(), vec![]);
    assert!(matches!(huge, Err(Error::TooLarge { .. })));
    assert!(matches!(NBitsMatrix::quantize(&[0.0; 3], [2, 2], grid, None), Err(Error::ByteLength { .. })));
}
