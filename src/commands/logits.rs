use crate::cli::LogitsArgs;
use crate::device::{Mode, on_device};
use crate::pipeline::runner::Runner;
use crate::progress::Progress;
use crate::source::OpenModel;
use crate::{Outcome, Result};
use serde::Deserialize;
use tamborim_converters::SafetensorsWriter;
use tamborim_kernels::{Backend, Logits};

pub fn run(args: &LogitsArgs) -> Result<Outcome> {
    let sequences = read_tokens(args)?;
    let model = OpenModel::open(&args.model, &args.open)?;
    on_device!(args.device.open(Mode::Exact)?, |backend| write(&backend, args, &sequences, &model))?;
    Ok(Outcome::Done)
}

fn write<B: Backend>(backend: &B, args: &LogitsArgs, sequences: &Sequences, model: &OpenModel) -> Result<()> {
    let runtime = Runner::load(backend, model)?;
    let vocab = runtime.plan().padded_vocab_size;
    let length = sequences.rows[0].len();
    let mut shape = vec![length, vocab];
    if sequences.is_batch {
        shape.insert(0, sequences.rows.len());
    }
    let mut writer = SafetensorsWriter::create(&args.output, &[("logits", "F32", shape)])?;
    let progress = Progress::tokens("logits", (length * sequences.rows.len()) as u64);
    for row in &sequences.rows {
        let mut sequence = runtime.start()?;
        for chunk in row.chunks(args.context.unwrap_or(backend.chunk())) {
            sequence.forward(
                chunk,
                Logits::All,
                |rows| Ok(writer.put(bytemuck::cast_slice(&backend.read(&rows)?))?),
            )?;
            progress.advance(chunk.len() as u64);
        }
    }
    writer.finish()?;
    progress.finish();
    Ok(())
}

/// `{"tokens": [..]}` or `{"tokens": [[..], [..]]}`.
#[derive(Deserialize)]
struct TokenFile {
    tokens: TokenLists,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum TokenLists {
    One(Vec<u32>),
    Batch(Vec<Vec<u32>>),
}

/// Sequences of equal lengths.
struct Sequences {
    rows: Vec<Vec<u32>>,
    /// Given as a list of lists: the output has a dimension for it.
    is_batch: bool,
}

fn read_tokens(args: &LogitsArgs) -> Result<Sequences> {
    let path = args.tokens.display();
    let text = std::fs::read(&args.tokens).map_err(|e| format!("{path}: {e}"))?;
    let expected = "expected a list of token ids or a list of such lists";
    let file: TokenFile = serde_json::from_slice(&text)
        .map_err(|e| format!("{path}: field tokens: {expected}, found something else ({e})"))?;
    let (rows, is_batch) = match file.tokens {
        TokenLists::One(row) => (vec![row], false),
        TokenLists::Batch(rows) => (rows, true),
    };
    let length = rows.first().map_or(0, Vec::len);
    if length == 0 || rows.iter().any(|r| r.len() != length) {
        let lengths: Vec<usize> = rows.iter().map(Vec::len).take(8).collect();
        return Err(
            format!("{path}: field tokens: expected lists of one length above 0, found lengths {lengths:?}").into()
        );
    }
    Ok(Sequences { rows, is_batch })
}
