//! The operators against float64, without ONNX Runtime: sizes that fill no vector, sequences in pieces, inputs left out, and
//! what must be refused.

use serde_json::Value;
use tamborim_ops::{Inputs, OPERATORS, Operator, Pool, Port, ThisThread};

/// Several threads that take turns as they like.
struct Threads(usize);

impl Pool for Threads {
    fn run(&self, times: usize, work: &(dyn Fn() + Sync)) -> Result<(), String> {
        let left = std::sync::atomic::AtomicUsize::new(times);
        let one = |n: usize| n.checked_sub(1);
        let order = std::sync::atomic::Ordering::Relaxed;
        std::thread::scope(|scope| {
            for _ in 0..self.0 {
                scope.spawn(|| {
                    while left.fetch_update(order, order, one).is_ok() {
                        work();
                    }
                });
            }
        });
        Ok(())
    }
}

/// A tensor.
#[derive(Clone, Debug)]
struct Tensor {
    shape: Vec<i64>,
    data: Vec<f32>,
}

/// An operator's inputs, `None` where one is left out.
type Given = Vec<Option<Tensor>>;

/// Random inputs of the extents that `of` gives, of a size at which recurrences neither die nor explode.
fn random(operator: &Operator, of: &dyn Fn(&str) -> usize) -> Given {
    let mut rng = fastrand::Rng::with_seed(7);
    let one = |port: &Port| {
        let shape: Vec<usize> = port.shape.iter().map(|name| of(name)).collect();
        let number = |_| {
            let x = rng.f32() * 2.0 - 1.0;
            match port.name {
                "A" => -4.0 * x.abs(),
                "delta" => 6.0 * x - 2.0,
                "log_decay" => -x.abs(),
                "decay" => 1.0 - 0.2 * x.abs(),
                _ => x,
            }
        };
        let data = (0..shape.iter().product()).map(number).collect();
        Some(Tensor { shape: shape.iter().map(|x| *x as i64).collect(), data })
    };
    operator.inputs.iter().map(one).collect()
}

fn compute(operator: &'static Operator, given: &Given, pool: &dyn Pool) -> Result<[Vec<f32>; 2], String> {
    let views: Vec<_> = given.iter().map(|t| t.as_ref().map(|t| (t.shape.as_slice(), t.data.as_slice()))).collect();
    let inputs = Inputs::new(operator, &views)?;
    let mut outputs = [0, 1].map(|i| vec![f32::NAN; inputs.output_shape(i).iter().product()]);
    let [y, present] = &mut outputs;
    inputs.compute(&mut [Some(y.as_mut_slice()), Some(present.as_mut_slice())], pool)?;
    Ok(outputs)
}

/// What the documentation's formulas say, in float64.
fn truth(operator: &Operator, given: &Given) -> [Vec<f64>; 2] {
    let index = |name: &str| operator.inputs.iter().position(|p| p.name == name);
    let input = |name: &str| index(name).and_then(|i| given[i].as_ref());
    let at = |name: &str, i: usize| input(name).map(|t| f64::from(t.data[i]));
    let extent = |i: usize| input(operator.inputs[0].name).expect("it is required").shape[i] as usize;
    let (batch, length) = (extent(0), extent(1));
    if operator.name == "SelectiveScan" {
        let (channels, n) = (extent(2), input("A").expect("it is required").shape[1] as usize);
        let (mut y, mut h) = (vec![0.0; batch * length * channels], vec![0.0; batch * channels * n]);
        for (i, h) in h.iter_mut().enumerate() {
            *h = at("past_state", i).unwrap_or(0.0);
        }
        for b in 0..batch {
            for (t, c) in (0..length).flat_map(|t| (0..channels).map(move |c| (t, c))) {
                let token = b * length + t;
                let x = at("u", token * channels + c).expect("required");
                let delta = at("delta", token * channels + c).expect("required") + at("delta_bias", c).unwrap_or(0.0);
                let dt = delta.exp().ln_1p();
                let mut sum = at("D", c).unwrap_or(0.0) * x;
                for k in 0..n {
                    let h = &mut h[(b * channels + c) * n + k];
                    let decay = (dt * at("A", c * n + k).expect("required")).exp();
                    *h = decay * *h + dt * at("B", token * n + k).expect("required") * x;
                    sum += *h * at("C", token * n + k).expect("required");
                }
                let gate = at("z", token * channels + c).map_or(1.0, |z| z / (1.0 + (-z).exp()));
                y[token * channels + c] = sum * gate;
            }
        }
        return [y, h];
    }
    let (heads, keys) = (extent(2), extent(3));
    let values = input("value").expect("it is required").shape[3] as usize;
    let (mut y, mut state) = (vec![0.0; batch * length * heads * values], vec![0.0; batch * heads * keys * values]);
    for (i, s) in state.iter_mut().enumerate() {
        *s = at("past_state", i).unwrap_or(0.0);
    }
    for b in 0..batch {
        for (t, h) in (0..length).flat_map(|t| (0..heads).map(move |h| (t, h))) {
            let row = (b * length + t) * heads + h;
            for (k, v) in (0..keys).flat_map(|k| (0..values).map(move |v| (k, v))) {
                let decay = match operator.name {
                    "Retention" => at("decay", h).expect("required"),
                    _ => at("log_decay", row * keys + k).expect("required").exp(),
                };
                let s = &mut state[((b * heads + h) * keys + k) * values + v];
                *s = decay * *s
                    + at("key", row * keys + k).expect("required") * at("value", row * values + v).expect("required");
                y[row * values + v] += at("query", row * keys + k).expect("required") * *s / (keys as f64).sqrt();
            }
        }
    }
    [y, state]
}

#[track_caller]
fn near(found: &[f32], truth: &[f64], what: &str) {
    assert_eq!(found.len(), truth.len(), "{what}");
    let scale = truth.iter().fold(1.0f64, |m, x| m.max(x.abs()));
    for (i, (found, truth)) in found.iter().zip(truth).enumerate() {
        assert!((f64::from(*found) - truth).abs() <= 5e-6 * scale, "{what}, at {i}: expected {truth}, found {found}");
    }
}

/// Extents to try: of the batch, the sequence, and the operator's own dimensions.
fn sizes(name: &str) -> Vec<Vec<(&'static str, usize)>> {
    let scan = |batch, length, d_inner, d_state| {
        vec![("batch", batch), ("length", length), ("d_inner", d_inner), ("d_state", d_state)]
    };
    let heads = |batch, length, heads, keys, values| {
        vec![("batch", batch), ("length", length), ("heads", heads), ("key_dim", keys), ("value_dim", values)]
    };
    match name {
        "SelectiveScan" => vec![
            scan(1, 1, 1, 1),
            scan(1, 9, 16, 16),
            scan(2, 5, 37, 3),
            scan(3, 1, 33, 20),
            scan(1, 130, 48, 16),
            scan(2, 3, 4, 0),
            scan(0, 3, 4, 2),
            scan(2, 0, 20, 2),
            scan(1, 3, 0, 2),
        ],
        _ => vec![
            heads(1, 1, 1, 1, 1),
            heads(2, 7, 3, 5, 19),
            heads(1, 65, 2, 16, 32),
            heads(0, 2, 1, 2, 3),
            heads(1, 0, 2, 3, 4),
            heads(2, 3, 0, 3, 4),
            heads(1, 3, 2, 0, 4),
            heads(1, 3, 2, 4, 0),
        ],
    }
}

fn extent_of(size: &[(&'static str, usize)]) -> impl Fn(&str) -> usize {
    move |name| size.iter().find(|(n, _)| *n == name).map_or(0, |(_, extent)| *extent)
}

#[test]
fn operators_equal_float64_whatever_the_size_and_the_threads() {
    for operator in OPERATORS {
        for size in sizes(operator.name) {
            let given = random(operator, &extent_of(&size));
            let what = format!("{} {size:?}", operator.name);
            let found = compute(operator, &given, &ThisThread).expect(&what);
            let threaded = compute(operator, &given, &Threads(3)).expect(&what);
            let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            for ((found, threaded), truth) in found.iter().zip(&threaded).zip(truth(operator, &given)) {
                near(found, &truth, &what);
                assert_eq!(bits(found), bits(threaded), "{what}: threads change nothing");
            }
        }
    }
}

#[test]
fn optional_inputs_and_outputs_may_be_left_out() {
    for operator in OPERATORS {
        let size = &sizes(operator.name)[2];
        let optional: Vec<usize> = (0..operator.inputs.len()).filter(|i| operator.inputs[*i].optional).collect();
        for without in 0..1usize << optional.len() {
            let mut given = random(operator, &extent_of(size));
            for (bit, i) in optional.iter().enumerate() {
                if without >> bit & 1 == 1 {
                    given[*i] = None;
                }
            }
            // What is left out at the end need not be there at all.
            while given.last().is_some_and(Option::is_none) {
                given.pop();
            }
            let found = compute(operator, &given, &ThisThread).expect("computed");
            given.resize(operator.inputs.len(), None);
            for (found, truth) in found.iter().zip(truth(operator, &given)) {
                near(found, &truth, &format!("{} without {without:b}", operator.name));
            }
            let views: Vec<_> =
                given.iter().map(|t| t.as_ref().map(|t| (t.shape.as_slice(), t.data.as_slice()))).collect();
            let mut y = vec![f32::NAN; found[0].len()];
            let inputs = Inputs::new(operator, &views).expect("they fit");
            inputs.compute(&mut [Some(&mut y), None], &ThisThread).expect("computed");
            assert_eq!(y, found[0], "{}: y does not depend on who wants the state", operator.name);
        }
    }
}

/// Tokens `range` of a sequence's tensors; everything else as it is.
fn piece(operator: &Operator, given: &Given, range: std::ops::Range<usize>) -> Given {
    let cut = |(port, tensor): (&Port, &Option<Tensor>)| {
        let tensor = tensor.clone()?;
        if !port.shape.contains(&"length") {
            return Some(tensor);
        }
        let (batch, length) = (tensor.shape[0] as usize, tensor.shape[1] as usize);
        let width = tensor.data.len() / (batch * length).max(1);
        let rows = |b: usize| &tensor.data[(b * length + range.start) * width..(b * length + range.end) * width];
        let mut shape = tensor.shape.clone();
        shape[1] = range.len() as i64;
        Some(Tensor { shape, data: (0..batch).flat_map(rows).copied().collect() })
    };
    operator.inputs.iter().zip(given).map(cut).collect()
}

#[test]
fn a_sequence_in_pieces_gives_the_same_bits_as_in_one() {
    for operator in OPERATORS {
        let mut size = sizes(operator.name)[1].clone();
        size[0].1 = 1;
        size[1].1 = 11;
        let given = random(operator, &extent_of(&size));
        let [whole, end] = compute(operator, &given, &ThisThread).expect("computed");
        let past = operator.inputs.len() - 1;
        let (mut y, mut state) = (Vec::new(), given[past].clone());
        for range in [0..3, 3..4, 4..9, 9..11] {
            let mut part = piece(operator, &given, range);
            part[past] = state;
            let [rows, present] = compute(operator, &part, &Threads(2)).expect("computed");
            y.extend(rows);
            state = Some(Tensor { shape: given[past].as_ref().expect("given").shape.clone(), data: present });
        }
        assert_eq!(y, whole, "{}", operator.name);
        assert_eq!(state.expect("a state").data, end, "{}", operator.name);
    }
}

#[test]
fn shapes_that_do_not_fit_are_refused_by_name() {
    for operator in OPERATORS {
        let size = &sizes(operator.name)[1];
        let sound = random(operator, &extent_of(size));
        for (i, port) in operator.inputs.iter().enumerate() {
            let tensor = sound[i].clone().expect("all are given");
            let refused = |replaced: Option<Tensor>, what: &str| {
                let mut given = sound.clone();
                given[i] = replaced;
                let error = compute(operator, &given, &ThisThread).expect_err(what);
                // A dimension that comes first in an input is what the others are held to.
                assert!(error.starts_with(&format!("{}: ", operator.name)) && error.contains("expected"), "{error}");
            };
            for axis in 0..tensor.shape.len() {
                let mut shape = tensor.shape.clone();
                shape[axis] += 1;
                let data = vec![0.5; shape.iter().product::<i64>() as usize];
                refused(Some(Tensor { shape: shape.clone(), data }), "an extent that others do not have");
                shape[axis] = -1;
                refused(Some(Tensor { shape, data: tensor.data.clone() }), "a negative extent");
            }
            refused(Some(Tensor { shape: vec![], data: vec![1.0] }), "a scalar");
            let longer = [tensor.shape.clone(), vec![1]].concat();
            refused(Some(Tensor { shape: longer, data: tensor.data.clone() }), "a dimension too many");
            let huge = vec![i64::MAX; tensor.shape.len()];
            refused(Some(Tensor { shape: huge, data: tensor.data.clone() }), "extents whose product overflows");
            if !port.optional {
                refused(None, "a required input that is not there");
            }
        }
    }
}

/// Extents are what a caller claims; where one is zero, no number stands behind the others.
#[test]
fn empty_tensors_of_huge_extents_cost_nothing() {
    for operator in OPERATORS {
        let huge = |name: &str| match name {
            "batch" => 1 << 40,
            "length" => 0,
            _ => 3,
        };
        let shapes: Vec<Vec<i64>> =
            operator.inputs.iter().map(|p| p.shape.iter().map(|name| huge(name)).collect()).collect();
        let numbers = [0.5; 9];
        let given: Vec<_> = operator
            .inputs
            .iter()
            .zip(&shapes)
            .map(|(p, shape)| {
                let count = shape.iter().product::<i64>() as usize;
                (p.name != "past_state").then(|| (shape.as_slice(), &numbers[..count]))
            })
            .collect();
        let inputs = Inputs::new(operator, &given).expect("they fit");
        inputs.compute(&mut [Some(&mut []), None], &ThisThread).expect("nothing to compute");
    }
}

#[test]
fn operators_are_those_of_the_published_schema() {
    let schema: Value = serde_json::from_str(include_str!("../../docs/onnx/ai.samba.json")).expect("JSON");
    let published = schema["operators"].as_array().expect("a list");
    assert_eq!(published.len(), OPERATORS.len());
    for (published, operator) in published.iter().zip(OPERATORS) {
        assert_eq!(published["name"], operator.name);
        for (kind, ports) in [("inputs", operator.inputs), ("outputs", operator.outputs)] {
            let published: Vec<Value> = published[kind].as_array().expect("a list").clone();
            assert_eq!(published.len(), ports.len());
            for (published, port) in published.iter().zip(ports) {
                assert_eq!(published["name"], port.name);
                assert_eq!(published["optional"], port.optional);
                assert_eq!(published["type"], "tensor(float)");
                assert_eq!(published["shape"], Value::from(port.shape.to_vec()));
            }
        }
    }
}
