//! Speed and error of every format on one thread: `encode_error [FILE.f32 COLS]`, a file of little-endian `f32` rows.
//! Without a file: 4 million near-gaussian numbers in rows of 1024.

use std::time::Instant;
use tamborim_quant::Format;

/// Seconds of the fastest of five runs.
fn fastest(mut run: impl FnMut()) -> f64 {
    let time = |run: &mut dyn FnMut()| {
        let start = Instant::now();
        run();
        start.elapsed().as_secs_f64()
    };
    (0..5).map(|_| time(&mut run)).fold(f64::INFINITY, f64::min)
}

fn synthetic(n: usize) -> Vec<f32> {
    let mut state = 1u64;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 24) as f32
    };
    (0..n).map(|_| ((0..12).map(|_| uniform()).sum::<f32>() - 6.0) * 0.05).collect()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (values, cols) = match &arguments[..] {
        [] => (synthetic(1 << 22), 1024),
        [file, cols] => {
            let bytes = std::fs::read(file)?;
            (bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(), cols.parse()?)
        }
        _ => return Err("usage: encode_error [FILE.f32 COLS]".into()),
    };
    println!("format  bits/weight  encode Melem/s  with importance  decode Melem/s  relative rms error");
    for &format in Format::ALL.iter().filter(|f| f.fits(cols)) {
        let row = format.row_bytes(cols).ok_or("rows too long")?;
        let mut bytes = vec![0; values.len() / cols * row];
        let mut back = vec![0.0; values.len()];
        let importance = vec![1.0; cols];
        let rate = |seconds: f64| values.len() as f64 / seconds / 1e6;
        let weighed = rate(fastest(|| {
            for (values, bytes) in values.chunks_exact(cols).zip(bytes.chunks_exact_mut(row)) {
                format.encode(values, Some(&importance), bytes);
            }
        }));
        let encode = rate(fastest(|| format.encode(&values, None, &mut bytes)));
        // In panels that stay in cache, as a runtime decodes in front of a matrix product.
        let panel = 16.min(values.len() / cols);
        let decode = rate(fastest(|| {
            for bytes in bytes.chunks_exact(panel * row) {
                format.decode(bytes, &mut back[..panel * cols]);
            }
        }));
        format.decode(&bytes, &mut back);
        let square = |x: f32| x as f64 * x as f64;
        let error: f64 = values.iter().zip(&back).map(|(x, y)| square(x - y)).sum();
        let energy: f64 = values.iter().map(|x| square(*x)).sum();
        let bits = format.bits_per_weight();
        let error = (error / energy).sqrt();
        println!("{format:<6}  {bits:>11.4}  {encode:>14.1}  {weighed:>15.1}  {decode:>14.1}  {error:>18.3e}");
    }
    Ok(())
}
