//! `SelectiveScan`: shares of the channels side by side, each over all tokens of a sequence.

use crate::operator::{Inputs, Operator, Outputs, Port};
use crate::pool::{Pool, ThisThread, each};
use tamborim_kernels::recurrences::{
    Columns, SHARE, ScanInputs, blocks_len, from_blocks, scan_channels, to_blocks, to_rates,
};

const SEQUENCE: &[&str] = &["batch", "length", "d_inner"];
const DRIVE: &[&str] = &["batch", "length", "d_state"];
const STATE: &[&str] = &["batch", "d_inner", "d_state"];

pub(crate) const SELECTIVE_SCAN: Operator = Operator {
    name: "SelectiveScan",
    inputs: &[
        Port::new("u", SEQUENCE),
        Port::new("delta", SEQUENCE),
        Port::new("A", &["d_inner", "d_state"]),
        Port::new("B", DRIVE),
        Port::new("C", DRIVE),
        Port::optional("D", &["d_inner"]),
        Port::optional("z", SEQUENCE),
        Port::optional("delta_bias", &["d_inner"]),
        Port::optional("past_state", STATE),
    ],
    outputs: &[Port::new("y", SEQUENCE), Port::optional("present_state", STATE)],
    compute,
};

/// Numbers in all states of all tokens up to which one thread is done before another would be awake.
const ALONE: usize = 1 << 16;

/// Some channels of one sequence.
struct Share<'a, 's> {
    sequence: &'s ScanInputs<'a>,
    first: usize,
    /// (channels, d_state)
    past: Option<&'a [f32]>,
    present: Option<&'s mut [f32]>,
    y: Columns<'s>,
}

fn compute(inputs: &Inputs<'_>, outputs: Outputs<'_, '_>, pool: &dyn Pool) -> Result<(), String> {
    let [batch, tokens, channels, d_state] = ["batch", "length", "d_inner", "d_state"].map(|name| inputs.extent(name));
    let [Some(y), present] = outputs else { return Ok(()) };
    let a = inputs.required("A");
    // Rows of sequence i.
    let rows = |name: &str, i: usize, width: usize| {
        inputs.optional(name).map(|x| &x[i * tokens * width..(i + 1) * tokens * width])
    };
    let sequences: Vec<ScanInputs<'_>> = (0..batch)
        .map(|i| ScanInputs {
            u: rows("u", i, channels).unwrap_or_default(),
            delta: rows("delta", i, channels).unwrap_or_default(),
            delta_bias: inputs.optional("delta_bias"),
            b: rows("B", i, d_state).unwrap_or_default(),
            c: rows("C", i, d_state).unwrap_or_default(),
            d: inputs.optional("D"),
            z: rows("z", i, channels),
            channels,
            d_state,
        })
        .collect();
    let mut shares = Vec::with_capacity(batch * channels.div_ceil(SHARE));
    let mut present = present.as_deref_mut().unwrap_or_default();
    let mut y = &mut **y;
    for (i, sequence) in sequences.iter().enumerate() {
        let (rows, rest) = y.split_at_mut(tokens * channels);
        y = rest;
        for (share, y) in Columns::split(rows, channels, SHARE).enumerate() {
            let first = share * SHARE;
            let states = y.width() * d_state;
            let at = (i * channels + first) * d_state;
            let past = inputs.optional("past_state").map(|past| &past[at..at + states]);
            let state = present.split_off_mut(..states.min(present.len())).filter(|s| s.len() == states);
            shares.push(Share { sequence, first, past, present: state, y });
        }
    }
    let work = |mut share: Share<'_, '_>| {
        let Share { sequence, first, past, present, y } = &mut share;
        let len = blocks_len(y.width(), d_state);
        let mut blocks = vec![0.0; 2 * len];
        let (rates, h) = blocks.split_at_mut(len);
        to_rates(&a[*first * d_state..(*first + y.width()) * d_state], rates, d_state);
        if let Some(past) = past {
            to_blocks(past, h, d_state);
        }
        scan_channels(sequence, *first, rates, h, y);
        if let Some(present) = present {
            from_blocks(h, present, d_state);
        }
    };
    match batch * tokens * channels * d_state {
        ..=ALONE => each(&ThisThread, shares.into_iter(), work),
        _ => each(pool, shares.into_iter(), work),
    }
}
