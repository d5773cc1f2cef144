//! How long single kernels take, at the sizes of a Samba of 1.3 billion parameters.
//!
//! A case is recorded as a graph of many launches over inputs that take turns, so that none is found in the L2 cache, and
//! replayed after a pause: clocks are what they are in a burst, as they are for the peers in `scripts/gpu/peers.py`.

use super::attention::{self, KeyValues};
use super::linear::{self, Linear};
use super::recording::Graph;
use super::rows::{Kind, Rows};
use super::{Cuda, conv, elementwise, gram, scan};
use crate::Result;
use crate::backend::*;
use std::cell::RefCell;
use std::time::{Duration, Instant};
use tamborim_quant::{Format, Sums, Tensor};

/// What a kernel took.
#[derive(Clone, Debug, serde::Serialize)]
pub struct KernelTime {
    /// What it does, and on what type.
    pub name: String,
    /// Sizes.
    pub shape: String,
    /// Of one launch.
    pub median_us: f64,
    /// That must be read and written at least.
    pub bytes: usize,
}

/// Bytes of inputs that take turns: several times the L2 cache of any chip.
const ROTATED: usize = 256 << 20;
/// How long the launches of one replay should take together, and how often it is replayed.
const BURST_SECONDS: f64 = 2e-3;
const REPLAYS: usize = 15;

impl Cuda {
    /// Times the kernels of `bench --kernels`.
    ///
    /// # Errors
    /// Those of the device.
    pub fn kernel_times(&self) -> Result<Vec<KernelTime>> {
        let mut times = vec![self.copy_time()?];
        for tokens in [4096, 32768] {
            times.extend([self.scan_time(tokens)?, self.conv_time(tokens)?]);
            for (heads, head_dim) in [(18, 128), (36, 64)] {
                times.push(self.attention_time(tokens, heads, head_dim)?);
            }
        }
        for [width, block] in [[2304, 2304], [4608, 2304], [6144, 3072]] {
            times.push(self.gram_time(2048, width, block)?);
        }
        let formats = [Format::Bf16, Format::Q8_0, Format::Q6K, Format::Q5K, Format::Q4K, Format::Q4_0];
        for [n, k] in [[32000, 2304], [12288, 2304], [9216, 2304], [2304, 6144]] {
            for format in formats {
                times.push(self.gemv_time(format, n, k)?);
            }
        }
        Ok(times)
    }

    /// Median of a burst of launches, in microseconds each. `launch(i)` queues one on the i-th set of inputs.
    fn time(&self, launch: &dyn Fn(usize) -> Result<()>) -> Result<f64> {
        let device = &self.device;
        let timed = |count: usize| -> Result<f64> {
            for i in 0..2 {
                launch(i)?;
            }
            device.synchronize()?;
            let (graph, ()) = Graph::record(device, || (0..count).try_for_each(launch))?;
            let mut times = Vec::new();
            for _ in 0..REPLAYS {
                std::thread::sleep(Duration::from_millis(5));
                graph.launch()?;
                device.synchronize()?;
                // Two replays less one: what starting and waiting costs cancels out.
                let started = Instant::now();
                graph.launch()?;
                device.synchronize()?;
                let once = started.elapsed();
                let started = Instant::now();
                graph.launch()?;
                graph.launch()?;
                device.synchronize()?;
                times.push((started.elapsed().saturating_sub(once)).as_secs_f64());
            }
            times.sort_by(f64::total_cmp);
            Ok(times[times.len() / 2] / count as f64)
        };
        let rough = timed(2)?;
        let count = (BURST_SECONDS / rough.max(1e-7)).clamp(2.0, 2000.0) as usize;
        Ok(timed(count)? * 1e6)
    }

    /// Activations that are about normal, the same rows over and over.
    fn noise(&self, rows: usize, cols: usize) -> Result<Rows> {
        let mut random = fastrand::Rng::with_seed((rows * 31 + cols) as u64);
        let drawn = rows.min(64);
        let few: Vec<f32> = (0..drawn * cols).map(|_| (0..6).map(|_| random.f32()).sum::<f32>() - 3.0).collect();
        let mut all = few.repeat(rows.div_ceil(drawn));
        all.truncate(rows * cols);
        Backend::rows(self, cols, all)
    }

    fn rotated<T>(&self, bytes: usize, make: impl Fn() -> Result<T>) -> Result<Vec<T>> {
        (0..ROTATED.div_ceil(bytes.max(1)).min(64)).map(|_| make()).collect()
    }

    /// Outside of a graph, where it is fastest.
    fn copy_time(&self) -> Result<KernelTime> {
        let bytes = 2usize << 30;
        let (from, to) = (self.device.take(bytes)?, self.device.take(bytes)?);
        self.device.clear(&from, bytes)?;
        let mut times = Vec::new();
        for _ in 0..REPLAYS {
            self.device.synchronize()?;
            let started = Instant::now();
            self.device.copy(to.ptr, from.ptr, bytes)?;
            self.device.synchronize()?;
            times.push(started.elapsed().as_secs_f64());
        }
        times.sort_by(f64::total_cmp);
        let median_us = times[REPLAYS / 2] * 1e6;
        Ok(KernelTime { name: "copy".to_owned(), shape: "2 GiB".to_owned(), median_us, bytes: 2 * bytes })
    }

    fn scan_time(&self, tokens: usize) -> Result<KernelTime> {
        let (channels, states) = (4608, 16);
        let numbers = |n: usize| (0..n).map(|i| -((1 + i % states) as f32)).collect::<Vec<_>>();
        let weight = Tensor::quantize(&vec![0.01; channels * 8], vec![channels, 8], Format::Bf16, None)
            .map_err(|e| crate::Error::Source(e.into()))?;
        let dt_map = Map { name: "dt".to_owned(), weight, bias: Some(vec![-4.0; channels]) };
        let scan = scan::load(self, dt_map, numbers(channels * states), vec![1.0; channels])?;
        let state = self.scan_state(&scan)?;
        let bytes = 4 * tokens * channels * self.kind().bytes();
        let inputs = self.rotated(bytes, || {
            Ok([
                self.noise(tokens, channels)?,
                self.noise(tokens, channels)?,
                self.noise(tokens, 8 + 2 * states)?,
                self.noise(tokens, 2 * channels)?,
                self.new_rows(tokens, channels)?,
            ])
        })?;
        let median_us = self.time(&|i| {
            let [u, dt, driven, z, out] = &inputs[i % inputs.len()];
            scan::many(self, &scan, dt, [u, driven, out], Some(&z.columns(channels..2 * channels)), &state)
        })?;
        Ok(KernelTime {
            name: "scan bf16".to_owned(),
            shape: format!("L {tokens} D {channels} N {states}"),
            median_us,
            bytes,
        })
    }

    fn conv_time(&self, tokens: usize) -> Result<KernelTime> {
        let channels = 4608;
        let kernel: Vec<f32> = (0..channels * 4).map(|i| (i % 7) as f32 * 0.1 - 0.3).collect();
        let weights = Conv::new(self, &kernel, 4, Some(vec![0.1; channels]))?;
        let past = self.zeros(weights.past_len(channels))?;
        let bytes = 2 * tokens * channels * self.kind().bytes();
        let inputs = self.rotated(bytes, || self.noise(tokens, channels))?;
        let median_us = self.time(&|i| conv::apply(self, &weights, &inputs[i % inputs.len()], &past).map(drop))?;
        Ok(KernelTime { name: "conv1d bf16".to_owned(), shape: format!("L {tokens} D {channels}"), median_us, bytes })
    }

    fn attention_time(&self, tokens: usize, heads: usize, head_dim: usize) -> Result<KernelTime> {
        let shape = AttentionShape { heads, groups: heads, head_dim, window: Some(2048) };
        let bytes = 4 * tokens * heads * head_dim * self.kind().bytes();
        let mut place = None;
        self.set_place(&mut place, &vec![0; tokens], 0)?;
        let Some(place) = place else { unreachable!("it was just set") };
        let inputs = self.rotated(bytes, || {
            let qkv = self.noise(tokens, 3 * heads * head_dim)?;
            let mut kv = KeyValues::new(self, &shape)?;
            kv.grow(self, &shape, tokens + 2047)?;
            attention::append(self, &shape, None, &qkv, &place, &kv)?;
            Ok((qkv, kv, self.new_rows(tokens, heads * head_dim)?))
        })?;
        let median_us = self.time(&|i| {
            let (qkv, kv, out) = &inputs[i % inputs.len()];
            attention::attend_chunk(self, &shape, qkv, &place, kv, out)
        })?;
        let shape = format!("L {tokens} {heads}x{head_dim} window 2048");
        Ok(KernelTime { name: "attention bf16".to_owned(), shape, median_us, bytes })
    }

    fn gram_time(&self, tokens: usize, width: usize, block: usize) -> Result<KernelTime> {
        let sums = Sums::new(Vec::new(), width, block);
        let bytes = 4 * tokens * width + 24 * sums.rests.len();
        let x = elementwise::copied(self, &self.noise(tokens, width)?, Kind::F32)?;
        let grams = self.rotated(bytes, || Ok(RefCell::new(gram::load(self, sums.clone())?)))?;
        let median_us = self.time(&|i| gram::add(self, &x, &mut grams[i % grams.len()].borrow_mut()))?;
        let shape = format!("L {tokens} W {width} in blocks of {block}");
        Ok(KernelTime { name: "gram f32".to_owned(), shape, median_us, bytes })
    }

    fn gemv_time(&self, format: Format, n: usize, k: usize) -> Result<KernelTime> {
        let mut random = fastrand::Rng::with_seed((n + k) as u64);
        let few: Vec<f32> = (0..64 * k).map(|_| (0..6).map(|_| random.f32()).sum::<f32>() * 0.01 - 0.03).collect();
        let few = Tensor::quantize(&few, vec![64, k], format, None).map_err(|e| crate::Error::Source(e.into()))?;
        let bytes = few.bytes.len() / 64 * n;
        let weights: Vec<Linear> = self.rotated(bytes, || {
            let mut blocks = few.bytes.repeat(n.div_ceil(64));
            blocks.truncate(bytes);
            let weight = Tensor::new(format, vec![n, k], blocks).map_err(|e| crate::Error::Source(e.into()))?;
            linear::load(self, vec![Map { name: "w".to_owned(), weight, bias: None }])
        })?;
        let (x, y) = (self.noise(1, k)?, Rows::new(&self.device, 1, n, Kind::F32)?);
        let median_us = self.time(&|i| linear::store(self, &weights[i % weights.len()], &x, &y))?;
        Ok(KernelTime { name: format!("gemv {}", format.name()), shape: format!("{n}x{k}"), median_us, bytes })
    }
}
