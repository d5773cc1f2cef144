//! Numbers to encode, those of goldens/make.py bit for bit.

pub const ROWS: usize = 64;
pub const COLS: usize = 1024;

/// Multiples of 2^-24 in [0, 1).
pub fn uniform(n: usize, stream: u64) -> Vec<f64> {
    (1..=n as u64)
        .map(|i| {
            let z = i.wrapping_add(stream << 40).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            ((z ^ (z >> 31)) >> 40) as f64 / (1 << 24) as f64
        })
        .collect()
}

fn gaussian(n: usize, stream: u64) -> Vec<f64> {
    let mut sum = vec![0.0; n];
    for i in 0..12 {
        for (sum, u) in sum.iter_mut().zip(uniform(n, stream * 16 + i)) {
            *sum += u;
        }
    }
    sum.iter().map(|x| x - 6.0).collect()
}

pub fn data_set(name: &str) -> Vec<f32> {
    let n = ROWS * COLS;
    let numbers: Vec<f64> = match name {
        "gaussian" => gaussian(n, 1).iter().map(|x| x * 0.0625).collect(),
        "heavy" => gaussian(n, 2).iter().zip(uniform(n, 99)).map(|(x, u)| x * 0.0625 / (0.125 + u)).collect(),
        "shifted" => gaussian(n, 3).iter().map(|x| x * 0.0625 + 0.125).collect(),
        "sparse" => gaussian(n, 4).iter().zip(uniform(n, 98)).map(|(x, u)| if u < 0.75 { 0.0 } else { *x }).collect(),
        _ => panic!("unknown data set {name}"),
    };
    numbers.iter().map(|x| *x as f32).collect()
}
