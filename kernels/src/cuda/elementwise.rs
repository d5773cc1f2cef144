//! Operations on single numbers, and copies.

use super::device::{Argument, Launch};
use super::rows::Kind;
use super::{Cuda, Rows};
use crate::Result;

/// A matrix as the kernels of `elementwise.cu` take it: its address and the distance of its rows.
pub struct View {
    ptr: u64,
    stride: i64,
}

impl View {
    /// `x` itself.
    pub fn of(x: &Rows) -> View {
        View { ptr: x.ptr(), stride: x.stride as i64 }
    }

    /// The same row for every token.
    pub fn repeated(ptr: u64) -> View {
        View { ptr, stride: 0 }
    }
}

/// Queues `name` over `rows` x `cols` numbers of each of `views`, in the kernel's order.
pub fn map(cuda: &Cuda, name: &str, views: &[View], rows: usize, cols: usize) -> Result<()> {
    let (rows_argument, cols_argument) = (rows as i32, cols as i32);
    let mut arguments: Vec<&dyn Argument> = Vec::new();
    for view in views {
        arguments.extend([&view.ptr as &dyn Argument, &view.stride]);
    }
    arguments.extend([&rows_argument as &dyn Argument, &cols_argument]);
    // Eight numbers a thread, and no more blocks than a grid may have.
    let blocks = (rows * cols).div_ceil(2048).min(1 << 24);
    Ok(cuda.device.launch("elementwise", name, Launch::blocks(blocks, 256), &arguments)?)
}

/// `x = silu(x)`.
pub fn silu(cuda: &Cuda, x: &mut Rows) -> Result<()> {
    map(cuda, &format!("silu_{}", x.kind.suffix()), &[View::of(x), View::of(x)], x.rows, x.cols)
}

/// `silu(gate) * x`.
pub fn gate(cuda: &Cuda, gate: &Rows, x: &Rows) -> Result<Rows> {
    let out = Rows::new(&cuda.device, x.rows, x.cols, x.kind)?;
    let views = [View::of(gate), View::of(x), View::of(&out)];
    map(cuda, &format!("silu_times_{}", x.kind.suffix()), &views, x.rows, x.cols)?;
    Ok(out)
}

/// `silu(gate) * up` of rows `[gate, up]`.
pub fn gated_halves(cuda: &Cuda, x: &Rows) -> Result<Rows> {
    let half = x.cols / 2;
    gate(cuda, &x.columns(0..half), &x.columns(half..2 * half))
}

/// A dense copy in another kind, or the same.
pub fn copied(cuda: &Cuda, x: &Rows, kind: Kind) -> Result<Rows> {
    let out = Rows::new(&cuda.device, x.rows, x.cols, kind)?;
    let name = match (x.kind, kind) {
        (Kind::F32, Kind::F32) => "copy_f32",
        (Kind::Bf16, Kind::Bf16) => "copy_bf16",
        (Kind::F32, Kind::Bf16) => "f32_to_bf16",
        (Kind::Bf16, Kind::F32) => "bf16_to_f32",
    };
    map(cuda, name, &[View::of(x), View::of(&out)], x.rows, x.cols)?;
    Ok(out)
}

/// `[x, a - b]` in every row, in float32.
pub fn beside_difference(cuda: &Cuda, x: &Rows, pair: [&Rows; 2]) -> Result<Rows> {
    let [a, b] = pair.map(|x| copied(cuda, x, Kind::F32));
    let (a, b, x) = (a?, b?, copied(cuda, x, Kind::F32)?);
    let out = Rows::new(&cuda.device, x.rows, x.cols + a.cols, Kind::F32)?;
    let [left, right] = [out.columns(0..x.cols), out.columns(x.cols..out.cols)];
    map(cuda, "copy_f32", &[View::of(&x), View::of(&left)], x.rows, x.cols)?;
    map(cuda, "subtract_f32", &[View::of(&a), View::of(&b), View::of(&right)], a.rows, a.cols)?;
    Ok(out)
}

/// The numbers, row after row.
pub fn read(cuda: &Cuda, x: &Rows) -> Result<Vec<f32>> {
    let dense = match x.kind == Kind::F32 && x.is_dense() {
        true => x.clone(),
        false => copied(cuda, x, Kind::F32)?,
    };
    let mut numbers = vec![0.0; x.rows * x.cols];
    cuda.device.download(dense.ptr(), &mut numbers)?;
    Ok(numbers)
}
