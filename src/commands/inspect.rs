use crate::cli::Inspect;
use crate::output::{bytes, count, table};
use crate::source::{OpenModel, Reader};
use crate::{Outcome, Result};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use tamborim_converters::gguf::Metadata;
use tamborim_model::{Role, TensorSpec};
use tamborim_quant::{Format, Recipe, StoredAs};

/// Targets whose size `inspect` tells beforehand.
const TARGETS: [Recipe; 5] = [
    Recipe::Uniform(Format::F32),
    Recipe::Uniform(Format::Bf16),
    Recipe::Int8,
    Recipe::Uniform(Format::Q6K),
    Recipe::Int4,
];

pub fn run(args: &Inspect) -> Result<Outcome> {
    let model = OpenModel::open(&args.model, &args.open)?;
    let facts = Facts::gather(&model)?;
    match args.json {
        true => println!("{}", serde_json::to_string_pretty(&facts.json(args.tensors))?),
        false => facts.print(args.tensors),
    }
    Ok(Outcome::Done)
}

struct Facts<'m> {
    model: &'m OpenModel,
    tensors: Vec<(TensorSpec, StoredAs)>,
    /// Label and value, in order.
    lines: Vec<(String, Value)>,
}

impl Facts<'_> {
    fn gather(model: &OpenModel) -> Result<Facts<'_>> {
        let plan = model.source().plan();
        let mut tensors = Vec::new();
        for spec in plan.tensors() {
            let stored = model.source().stored_as(&spec)?;
            tensors.push((spec, stored));
        }
        let mut lines = vec![
            ("file".to_owned(), json!(model.path().display().to_string())),
            ("format".to_owned(), json!(model.format())),
            ("bytes".to_owned(), json!(model.bytes()?)),
            ("name".to_owned(), json!(plan.name)),
            ("architecture".to_owned(), json!(plan.architecture())),
            ("blocks".to_owned(), json!(plan.blocks.len())),
            ("width".to_owned(), json!(plan.d_model)),
            ("vocabulary".to_owned(), json!(plan.vocab_size)),
            ("padded vocabulary".to_owned(), json!(plan.padded_vocab_size)),
            ("training context".to_owned(), json!(plan.context_length)),
            ("parameters".to_owned(), json!(plan.parameters())),
            ("bits per weight".to_owned(), json!(model.facts()?.bits_per_weight)),
            ("tied head".to_owned(), json!(plan.tied)),
            ("prefill of the last token alone".to_owned(), json!(plan.last_token_share())),
            (
                "tokenizer".to_owned(),
                json!(match model.find_tokenizer()? {
                    Some(t) => format!("{}, {} pieces", t.pieces().kind.words(), t.vocab_size()),
                    None => "none".to_owned(),
                }),
            ),
        ];
        match &model.reader {
            Reader::Checkpoint(m) => {
                let extras = m.checkpoint().extras();
                if let Some(name) = &extras.model_name {
                    lines.push(("trained as".to_owned(), json!(name)));
                }
                lines.extend(extras.scalars.iter().map(|(k, v)| (k.clone(), json!(v))));
                lines
                    .extend(tied_storages(m.checkpoint()).into_iter().map(|l| ("shared storage".to_owned(), json!(l))));
            }
            Reader::Gguf(m) => lines.extend(provenance(m.file().metadata())),
            Reader::Onnx(m) => lines.extend(provenance(m.file().metadata())),
        }
        Ok(Facts { model, tensors, lines })
    }

    /// Parameters of each role, and what they are stored in.
    fn roles(&self) -> Vec<(Role, usize, String)> {
        let mut roles: BTreeMap<Role, (usize, Vec<&str>)> = BTreeMap::new();
        for (spec, stored) in &self.tensors {
            let (n, formats) = roles.entry(spec.role).or_default();
            *n += spec.elements();
            if !formats.contains(&stored.name.as_str()) {
                formats.push(&stored.name);
            }
        }
        roles.into_iter().map(|(role, (n, formats))| (role, n, formats.join(", "))).collect()
    }

    fn size_as(&self, recipe: Recipe) -> f64 {
        let bits = |s: &TensorSpec| s.elements() as f64 * recipe.choose(s, None).format.bits_per_weight();
        self.tensors.iter().map(|(s, _)| bits(s)).sum::<f64>() / 8.0
    }

    fn json(&self, with_tensors: bool) -> Value {
        let mut map: Map<String, Value> = Map::new();
        for (key, value) in &self.lines {
            map.insert(key.replace(' ', "_"), value.clone());
        }
        let roles =
            self.roles().into_iter().map(|(r, n, f)| (r.words().to_owned(), json!({ "parameters": n, "types": f })));
        map.insert("roles".to_owned(), Value::Object(roles.collect()));
        map.insert("plan".to_owned(), json!(self.model.source().plan().diagram()));
        let sizes = TARGETS.map(|t| (t.to_string(), json!(self.size_as(t) as u64)));
        map.insert("would_weigh".to_owned(), Value::Object(sizes.into_iter().collect()));
        if with_tensors {
            let rows = self
                .tensors
                .iter()
                .map(|(s, f)| json!({ "name": s.name, "shape": s.shape, "type": f.name, "role": s.role.words() }));
            map.insert("tensors".to_owned(), rows.collect());
        }
        Value::Object(map)
    }

    fn print(&self, with_tensors: bool) {
        let text = |key: &str, v: &Value| match (key, v) {
            ("bytes", v) => bytes(v.as_u64().unwrap_or(0)),
            ("bits per weight", v) => format!("{:.3}", v.as_f64().unwrap_or(0.0)),
            ("prefill of the last token alone", v) => format!("{:.1} %", 100.0 * v.as_f64().unwrap_or(0.0)),
            (_, Value::String(s)) => s.clone(),
            (_, v) => v.to_string(),
        };
        let rows = self.lines.iter().map(|(k, v)| vec![k.clone(), text(k, v)]).collect();
        println!("{}", table(&["", ""], rows).trim_start_matches('\n'));
        for line in self.model.source().plan().diagram() {
            println!("{line}");
        }
        println!();
        let total = self.model.source().plan().parameters() as f64;
        let rows = self.roles().into_iter().map(|(role, n, formats)| {
            vec![role.words().to_owned(), count(n), format!("{:.2} %", 100.0 * n as f64 / total), formats]
        });
        println!("{}", table(&["role", ">parameters", ">share", "stored as"], rows.collect()));
        let rows = TARGETS.iter().map(|t| {
            let size = self.size_as(*t);
            vec![t.to_string(), bytes(size as u64), format!("{:.3}", size * 8.0 / total)]
        });
        println!("{}", table(&["would weigh as", ">size", ">bits/weight"], rows.collect()));
        if with_tensors {
            let rows = self.tensors.iter().map(|(s, f)| {
                vec![s.name.clone(), format!("{:?}", s.shape), f.name.clone(), s.role.words().to_owned()]
            });
            println!("{}", table(&["tensor", "shape", "type", "role"], rows.collect()));
        }
    }
}

/// What our keys say of where a file comes from.
fn provenance(metadata: &Metadata) -> Vec<(String, Value)> {
    let own = |key: &str| key.strip_prefix("tamborim.").map(str::to_owned);
    let text = |key: &str| metadata.optional::<&str>(key).ok().flatten();
    metadata.iter().filter_map(|(key, _)| Some((own(key)?, json!(text(key)?)))).collect()
}

/// Names of tensors that are the very same bytes.
fn tied_storages(checkpoint: &dyn tamborim_converters::Checkpoint) -> Vec<String> {
    let mut groups: Vec<(&tamborim_converters::checkpoint::Identity, Vec<&str>)> = Vec::new();
    for (name, entry) in checkpoint.entries() {
        match groups.iter_mut().find(|(identity, _)| **identity == entry.identity) {
            Some((_, names)) => names.push(name),
            None => groups.push((&entry.identity, vec![name])),
        }
    }
    groups.into_iter().filter(|(_, names)| names.len() > 1).map(|(_, names)| names.join(" = ")).collect()
}
