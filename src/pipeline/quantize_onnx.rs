//! From a model and a wish to a quantized ONNX file: integers of 4 or 8 bits in blocks, or floats.

use super::quantize::{Rule, refuse_idle, ruled};
use super::rounding::{Calibrated, with_rounded};
use super::write::Written;
use super::write_onnx::{nearest_blocks, write_onnx};
use crate::Result;
use crate::source::OpenModel;
use std::collections::HashMap;
use std::path::Path;
use tamborim_converters::onnx::{Options, Storage};
use tamborim_model::{Role, TensorSpec};
use tamborim_quant::{Format, NBits, NBitsMatrix, Recipe, StoredAs};

/// Blocks that there are, longest first.
const BLOCKS: [usize; 4] = [128, 64, 32, 16];

/// What the user asked for.
pub struct Wish<'a> {
    pub recipe: Recipe,
    /// Elements that share a scale.
    pub block: usize,
    /// No zero points.
    pub symmetric: bool,
    pub rules: &'a [Rule<Recipe>],
}

/// Every linear map with how it is stored.
pub struct OnnxPlan {
    pub rows: Vec<(TensorSpec, Storage)>,
    /// What did not fit, a line each.
    pub notes: Vec<String>,
}

impl OnnxPlan {
    pub fn new(model: &OpenModel, wish: &Wish<'_>) -> Result<OnnxPlan> {
        refuse_idle(model, wish.rules)?;
        let mut plan = OnnxPlan { rows: Vec::new(), notes: Vec::new() };
        for spec in model.source().plan().tensors() {
            let storage = match spec.role.is_linear() {
                true => plan.choose(&spec, wish)?,
                false => Storage::Float(Format::F32),
            };
            plan.rows.push((spec, storage));
        }
        Ok(plan)
    }

    fn choose(&mut self, spec: &TensorSpec, wish: &Wish<'_>) -> Result<Storage> {
        let rule = ruled(wish.rules, spec);
        let bits = match (rule.unwrap_or(wish.recipe), rule.is_some()) {
            // A rule for one tensor means that many bits, not a mix.
            (Recipe::Int4, true) => 4,
            (Recipe::Uniform(format), _) if !format.is_quantized() => return Ok(Storage::Float(format)),
            (recipe, _) => recipe
                .integer_bits(spec.role)
                .ok_or_else(|| format!("--to {recipe}: expected int8, int4, f32, f16 or bf16 for ONNX"))?,
        };
        let cols = spec.shape[1];
        // Rows of an embedding are taken out one by one, and must be whole blocks.
        let fits = |block: usize| spec.role != Role::Embedding || cols.is_multiple_of(block);
        let Some(block) = BLOCKS.into_iter().find(|b| *b <= wish.block && fits(*b)) else {
            self.notes.push(format!("rows of {cols} ({}) are not whole blocks of 16: f32", spec.role.words()));
            return Ok(Storage::Float(Format::F32));
        };
        if block != wish.block {
            self.notes.push(format!(
                "rows of {cols} ({}) are not whole blocks of {}: {block}",
                spec.role.words(),
                wish.block
            ));
        }
        Ok(Storage::Blocks(NBits::new(bits, block, !wish.symmetric, Format::F32)?))
    }

    /// Writes the model by this plan; with a calibration, rounded for what its maps' inputs are.
    pub fn write(
        &self,
        model: &OpenModel,
        output: &Path,
        options: Options,
        calibrated: Option<Calibrated<'_>>,
    ) -> Result<Written> {
        let storage = |spec: &TensorSpec| {
            let row = self.rows.iter().find(|(s, _)| s.name == spec.name);
            Ok(row.map_or(Storage::Float(Format::F32), |(_, storage)| *storage))
        };
        let write = |rounded: &dyn Fn(&TensorSpec) -> Result<Option<NBitsMatrix<'static>>>| {
            write_onnx(model, output, "quantize", options, storage, |spec, tensor, grid| match rounded(spec)? {
                Some(rounded) => Ok(rounded),
                None => nearest_blocks(spec, tensor, grid),
            })
        };
        match calibrated {
            None => write(&|_| Ok(None)),
            Some(calibrated) => with_rounded(model, calibrated, self.targets(), |rounded| write(rounded)),
        }
    }

    /// What maps are rounded to: those that become floats are not.
    fn targets(&self) -> HashMap<String, NBits> {
        let target = |(spec, storage): &(TensorSpec, Storage)| match storage {
            Storage::Blocks(grid) => Some((spec.name.clone(), *grid)),
            Storage::Float(_) => None,
        };
        self.rows.iter().filter_map(target).collect()
    }

    pub fn parameters(&self) -> usize {
        self.rows.iter().map(|(spec, _)| spec.elements()).sum()
    }

    pub fn bits_per_weight(&self) -> f64 {
        let bits = |(spec, storage): &(TensorSpec, Storage)| {
            spec.elements() as f64 * stored_as(spec, *storage).bits_per_weight
        };
        self.rows.iter().map(bits).sum::<f64>() / self.parameters() as f64
    }
}

/// The storage in words.
pub fn stored_as(spec: &TensorSpec, storage: Storage) -> StoredAs {
    match storage {
        Storage::Float(format) => format.into(),
        Storage::Blocks(grid) => (grid, [spec.shape[0], spec.shape[1]]).into(),
    }
}
