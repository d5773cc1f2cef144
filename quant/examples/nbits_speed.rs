//! Speed and error of the quantizer for MatMulNBits on one thread: `nbits_speed FILE.f32 COLS BITS BLOCK ZERO_POINTS`, a
//! file of little-endian `f32` rows, 4 or 8 bits, true or false. Prints JSON as `benches/nbits_speed.py` takes it: million
//! weights per second of processor time, the best of five runs, and the error's norm over the weights'.

use rayon::ThreadPoolBuilder;
use tamborim_quant::{Format, NBits, NBitsMatrix};

/// Seconds that this process has computed.
fn processor_time() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, cols, bits, block, zero_points] = &arguments[..] else {
        return Err("usage: nbits_speed FILE.f32 COLS BITS BLOCK ZERO_POINTS".into());
    };
    let x: Vec<f32> = std::fs::read(file)?.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let cols: usize = cols.parse()?;
    let extent = [x.len().checked_div(cols).ok_or("no columns")?, cols];
    let grid = NBits::new(bits.parse()?, block.parse()?, zero_points.parse()?, Format::F32)?;
    ThreadPoolBuilder::new().num_threads(1).build_global()?;
    let mut seconds = f64::INFINITY;
    for _ in 0..5 {
        let started = processor_time();
        NBitsMatrix::quantize(&x, extent, grid, None)?;
        seconds = seconds.min(processor_time() - started);
    }
    let square = |x: f32| f64::from(x) * f64::from(x);
    let back = NBitsMatrix::quantize(&x, extent, grid, None)?.to_f32();
    let lost: f64 = x.iter().zip(back).map(|(x, y)| square(x - y)).sum();
    let error = (lost / x.iter().map(|x| square(*x)).sum::<f64>()).sqrt();
    let speed = x.len() as f64 / seconds / 1e6;
    println!("{{\"melem_per_cpu_s\": {speed:.1}, \"rel_error\": {error:.6}}}");
    Ok(())
}
