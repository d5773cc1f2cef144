//! A model with one tensor replaced says the same whether it is loaded whole or walked on from where it differs.

use crate::common::*;
use tamborim_converters::CheckpointModel;
use tamborim_kernels::{Cpu, Error, Logits, Model, Trace, Variant};
use tamborim_model::{Plan, TensorSpec};
use tamborim_quant::{Format, SourceError, Tensor, TensorSource};

/// A model with one tensor half as large again.
struct Altered<'s> {
    source: &'s dyn TensorSource,
    name: String,
}

impl TensorSource for Altered<'_> {
    fn plan(&self) -> &Plan {
        self.source.plan()
    }

    fn format(&self, spec: &TensorSpec) -> Result<Format, SourceError> {
        if spec.name == self.name { Ok(Format::F32) } else { self.source.format(spec) }
    }

    fn read(&self, spec: &TensorSpec) -> Result<Tensor<'_>, SourceError> {
        let tensor = self.source.read(spec)?;
        if spec.name != self.name {
            return Ok(tensor);
        }
        let larger: Vec<u8> = tensor.to_f32().iter().flat_map(|x| (1.5 * x).to_le_bytes()).collect();
        Ok(Tensor::new(Format::F32, tensor.shape, larger)?)
    }

    fn release(&self) {}
}

fn whole(source: &dyn TensorSource, windows: &[&[u32]]) -> Vec<Vec<f32>> {
    let model = Model::load(&Cpu, source).expect("it loads");
    let mut all = Vec::new();
    for window in windows {
        let mut state = model.start().expect("a state");
        let sink = |rows: <Cpu as tamborim_kernels::Backend>::Rows| {
            all.push(rows.data);
            Ok::<_, Error>(())
        };
        model.forward(window, &mut state, Logits::All, sink).expect("it runs");
    }
    all
}

fn walked_on(model: &Model<'_, Cpu>, trace: &Trace<Cpu>, variant: Option<&Variant<'_, Cpu>>) -> Vec<Vec<f32>> {
    let mut all = Vec::new();
    let sink = |_: &[u32], rows: <Cpu as tamborim_kernels::Backend>::Rows| {
        all.push(rows.data);
        Ok::<_, Error>(())
    };
    model.retrace(trace, variant, sink).expect("it runs");
    all
}

#[test]
fn a_variant_walks_on_from_where_it_differs_to_the_same_bits() {
    let folders = ["lit/samba_gqa2", "lit/mamba_swa_mlp", "lit/mega", "lit/swa_ret", "lit/llama_ln_bias_partialrope"];
    let checkpoints = folders.map(|f| format!("{f}/checkpoint.pth"));
    let descendants = ["descendants/phi4flash_gqa4_bf16", "descendants/plamo2_step3_mqa_bf16"].map(str::to_owned);
    for path in checkpoints.into_iter().chain(descendants) {
        let source = CheckpointModel::open(&fixture(&path), None, false).expect("it opens");
        let plan = source.plan();
        // The second chunk of the first window has one token.
        let tokens: Vec<u32> = (0..257).map(|i| (i * 37 % plan.vocab_size) as u32).collect();
        let windows = [&tokens[..], &tokens[40..51]];
        let model = Model::load(&Cpu, &source).expect("it loads");
        let trace = model.trace(&windows).expect("it runs");
        let own = whole(&source, &windows);
        assert!(walked_on(&model, &trace, None) == own, "{path}: the model itself");
        for spec in plan.tensors() {
            let altered = Altered { source: &source, name: spec.name.clone() };
            let variant = model.variant(&altered, &spec).expect("it loads");
            let expected = whole(&altered, &windows);
            assert!(expected != own || spec.role.words().contains("norm"), "{path}: {} does something", spec.name);
            assert!(walked_on(&model, &trace, Some(&variant)) == expected, "{path}: {}", spec.name);
        }
    }
}
