//! Second moments: `x^T x` of rows x, added to exact sums that stay on the device.

use super::device::Launch;
use super::memory::Block;
use super::rows::Kind;
use super::{Cuda, Rows, elementwise};
use crate::Result;
use tamborim_quant::Sums;

/// [`Sums`] on the device.
pub struct Gram {
    /// Everything but the numbers.
    maps: Vec<String>,
    width: usize,
    block: usize,
    count: u64,
    /// How many numbers each of these has.
    len: usize,
    /// float64, as [`tamborim_quant::Moments::lower`].
    values: Block,
    /// float32, as [`Sums::rests`].
    rests: Block,
}

/// Takes sums along. Those over no tokens are not copied.
pub fn load(cuda: &Cuda, sums: Sums) -> Result<Gram> {
    let Sums { moments, rests } = sums;
    let (device, bytes) = (&cuda.device, [size_of_val(&moments.lower[..]), size_of_val(&rests[..])]);
    let gram = Gram {
        maps: moments.maps,
        width: moments.width,
        block: moments.block,
        count: moments.count,
        len: rests.len(),
        values: device.take(bytes[0])?,
        rests: device.take(bytes[1])?,
    };
    match gram.count {
        0 => {
            device.clear(&gram.values, bytes[0])?;
            device.clear(&gram.rests, bytes[1])?;
        }
        _ => {
            device.upload(&gram.values, &moments.lower)?;
            device.upload(&gram.rests, &rests)?;
        }
    }
    Ok(gram)
}

/// Rows and columns of sums that a block of threads owns.
const TILE: [usize; 2] = [128, 64];
/// Threads of a block, and the bytes that they share: the tile in float64, and two stages of 16 tokens.
const THREADS: usize = 128;
const SHARED: usize = 8 * TILE[0] * TILE[1] + 2 * 16 * 4 * (TILE[0] + TILE[1]);

/// Adds the moments of `x`, rounded once to multiples of 2^-32, to `gram`.
pub fn add(cuda: &Cuda, x: &Rows, gram: &mut Gram) -> Result<()> {
    if x.kind != Kind::F32 {
        return add(cuda, &elementwise::copied(cuda, x, Kind::F32)?, gram);
    }
    let rows = gram.block.div_ceil(TILE[0]);
    // Of row m of tiles, those up to the diagonal: 2 (m + 1).
    let tiles = rows * (rows + 1);
    cuda.device.launch(
        "gram",
        "gram_f32",
        Launch::grid([tiles, gram.width.div_ceil(gram.block), 1], THREADS).shared(SHARED),
        &[
            &x.ptr(),
            &(x.stride as i64),
            &gram.values.ptr,
            &gram.rests.ptr,
            &(x.rows as i32),
            &(gram.width as i32),
            &(gram.block as i32),
        ],
    )?;
    gram.count += x.rows as u64;
    Ok(())
}

/// The sums.
pub fn read(cuda: &Cuda, gram: &Gram) -> Result<Sums> {
    let mut sums = Sums::new(gram.maps.clone(), gram.width, gram.block);
    sums.moments.count = gram.count;
    cuda.device.download(gram.values.ptr, &mut sums.moments.lower)?;
    cuda.device.download(gram.rests.ptr, &mut sums.rests)?;
    Ok(sums)
}

/// The last values, from `first` on.
pub fn read_end(cuda: &Cuda, gram: &Gram, first: usize) -> Result<Vec<f64>> {
    let mut values = vec![0.0f64; gram.len - first];
    cuda.device.download(gram.values.ptr + (first * size_of::<f64>()) as u64, &mut values)?;
    Ok(values)
}
