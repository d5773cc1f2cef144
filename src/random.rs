//! Models with random weights: for measuring speed at sizes nobody has trained.

use crate::Result;
use std::path::Path;
use tamborim_converters::is_hugging_face;
use tamborim_model::{Config, Plan, Role, ShapeHints, TensorSpec, official};
use tamborim_quant::{Format, Recipe, SourceError, Tensor, TensorSource};

/// Rows that are drawn; the others repeat them. What a product costs does not depend on it, and a model of billions of
/// weights is there in seconds.
const DRAWN: usize = 64;

/// A plan, every tensor made when it is asked for: linear maps as wide as trained ones are at the start of training, steps
/// of the scan between 0.001 and 0.1, norms of 1.
pub struct RandomModel {
    plan: Plan,
    recipe: Recipe,
}

impl RandomModel {
    /// Of an official configuration, a JSON file of configuration fields or a Hugging Face `config.json`, in the formats of
    /// `recipe`.
    pub fn new(config: &str, recipe: Recipe) -> Result<RandomModel> {
        let plan = match Path::new(config).is_file() {
            true => {
                let text = std::fs::read_to_string(config).map_err(|e| format!("{config}: {e}"))?;
                let plan = match is_hugging_face(&text) {
                    true => Plan::from_hugging_face(&text, &[]),
                    false => Config::from_json(&text, &ShapeHints::default()).and_then(|c| Plan::from_config(&c)),
                };
                plan.map_err(|e| format!("{config}: {e}"))?
            }
            false => {
                let plan = official::config(config).and_then(|c| Plan::from_config(&c));
                plan.map_err(|e| format!("--random {config}: {e}"))?
            }
        };
        Ok(RandomModel { plan, recipe })
    }
}

impl TensorSource for RandomModel {
    fn plan(&self) -> &Plan {
        &self.plan
    }

    fn format(&self, spec: &TensorSpec) -> std::result::Result<Format, SourceError> {
        Ok(self.recipe.choose(spec, None).format)
    }

    fn read(&self, spec: &TensorSpec) -> std::result::Result<Tensor<'_>, SourceError> {
        let (rows, cols) = (spec.elements() / spec.shape[spec.shape.len() - 1], spec.shape[spec.shape.len() - 1]);
        let seed = spec.name.bytes().fold(1u64, |seed, byte| seed.wrapping_mul(31).wrapping_add(u64::from(byte)));
        let mut random = fastrand::Rng::with_seed(seed);
        // The sum of twelve uniform numbers is about normal.
        let mut normal = || (0..12).map(|_| random.f32()).sum::<f32>() - 6.0;
        let scale = 1.0 / (cols as f32).sqrt();
        let drawn = rows.min(DRAWN);
        let numbers: Vec<f32> = (0..drawn * cols)
            .map(|i| match spec.role {
                Role::SsmA => -((1 + i % cols) as f32),
                Role::SsmDtBias => normal() - 5.0,
                Role::Norm | Role::SsmD => 1.0,
                Role::SsmConv | Role::AttnConv => 0.5 * normal(),
                Role::Bias | Role::AttnLambda => 0.1 * normal(),
                _ => scale * normal(),
            })
            .collect();
        let mut shape = spec.shape.clone();
        let few = Tensor::quantize(&numbers, vec![drawn, cols], self.format(spec)?, None)?;
        let mut bytes = few.bytes.repeat(rows.div_ceil(drawn));
        bytes.truncate(few.row_bytes() * rows);
        if shape.is_empty() {
            shape.push(1);
        }
        Ok(Tensor::new(few.format, shape, bytes)?)
    }

    fn release(&self) {}
}
