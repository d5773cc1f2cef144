//! An operator whatever runs it: what it takes and gives, checked before anything is computed.

use crate::pool::Pool;

/// An input or output: float32, row-major.
#[derive(Clone, Copy, Debug)]
pub struct Port {
    /// Its name.
    pub name: &'static str,
    /// Extents by name; a name stands for the same number throughout an operator.
    pub shape: &'static [&'static str],
    /// Whether it may be left out.
    pub optional: bool,
}

impl Port {
    pub(crate) const fn new(name: &'static str, shape: &'static [&'static str]) -> Port {
        Port { name, shape, optional: false }
    }

    pub(crate) const fn optional(name: &'static str, shape: &'static [&'static str]) -> Port {
        Port { name, shape, optional: true }
    }
}

/// An operator of `ai.samba`, version 1. None has attributes.
#[derive(Debug)]
pub struct Operator {
    /// Its name.
    pub name: &'static str,
    /// In order.
    pub inputs: &'static [Port],
    /// In order; every extent is one of an input's.
    pub outputs: &'static [Port],
    pub(crate) compute: fn(&Inputs<'_>, Outputs<'_, '_>, &dyn Pool) -> Result<(), String>,
}

/// An operator's inputs, of the shapes that it specifies.
pub struct Inputs<'a> {
    operator: &'static Operator,
    numbers: Vec<Option<&'a [f32]>>,
    extents: Vec<(&'static str, usize)>,
}

/// An operator's outputs in order, `None` where nobody wants one.
pub type Outputs<'o, 'a> = &'o mut [Option<&'a mut [f32]>];

impl<'a> Inputs<'a> {
    /// Inputs in order with their shapes; `None`, or nothing at the end, where one is left out.
    ///
    /// # Errors
    /// Which input is missing or has the wrong shape, what was expected and what was found.
    pub fn new(operator: &'static Operator, given: &[Option<(&[i64], &'a [f32])>]) -> Result<Inputs<'a>, String> {
        let wrong = |port: &Port, expected: &str, found: &str| {
            Err(format!("{}: {}: expected {expected}, found {found}", operator.name, port.name))
        };
        let mut extents: Vec<(&'static str, usize)> = Vec::with_capacity(8);
        let mut numbers = Vec::with_capacity(operator.inputs.len());
        for (i, port) in operator.inputs.iter().enumerate() {
            let Some((shape, data)) = given.get(i).copied().flatten() else {
                if !port.optional {
                    return wrong(port, "a tensor", "none");
                }
                numbers.push(None);
                continue;
            };
            let fits = shape.len() == port.shape.len()
                && port.shape.iter().zip(shape).all(|(name, found)| {
                    let Ok(found) = usize::try_from(*found) else { return false };
                    match extents.iter().find(|(n, _)| n == name) {
                        Some((_, extent)) => *extent == found,
                        None => {
                            extents.push((name, found));
                            true
                        }
                    }
                });
            let count = shape.iter().try_fold(1usize, |n, x| n.checked_mul(usize::try_from(*x).ok()?));
            if !fits || count != Some(data.len()) {
                let known = |name: &&str| match extents.iter().find(|(n, _)| n == name) {
                    Some((_, extent)) if shape.len() == port.shape.len() => format!("{name} = {extent}"),
                    _ => (*name).to_owned(),
                };
                let expected = port.shape.iter().map(known).collect::<Vec<_>>().join(", ");
                return wrong(port, &format!("({expected})"), &format!("{shape:?}"));
            }
            numbers.push(Some(data));
        }
        Ok(Inputs { operator, numbers, extents })
    }

    /// The shape of output `index`.
    pub fn output_shape(&self, index: usize) -> Vec<usize> {
        self.operator.outputs[index].shape.iter().map(|name| self.extent(name)).collect()
    }

    /// Computes the operator into outputs of [`Inputs::output_shape`], in whose place `None` stands where nobody wants them.
    ///
    /// # Errors
    /// What the pool could not do.
    pub fn compute(&self, outputs: Outputs<'_, '_>, pool: &dyn Pool) -> Result<(), String> {
        for (i, (port, output)) in self.operator.outputs.iter().zip(outputs.iter()).enumerate() {
            let expected = self.output_shape(i).iter().product::<usize>();
            if output.as_ref().is_some_and(|o| o.len() != expected) {
                return Err(format!("{}: {}: expected {expected} numbers", self.operator.name, port.name));
            }
        }
        // Where nothing comes out, extents may be anything: a product with a zero in it bounds none of them.
        if outputs.iter().flatten().all(|o| o.is_empty()) {
            return Ok(());
        }
        (self.operator.compute)(self, outputs, pool)
    }

    /// What a name in the shapes stands for.
    pub(crate) fn extent(&self, name: &str) -> usize {
        self.extents.iter().find(|(n, _)| *n == name).map_or(0, |(_, extent)| *extent)
    }

    /// An input that is always there.
    pub(crate) fn required(&self, name: &str) -> &'a [f32] {
        self.optional(name).unwrap_or_default()
    }

    /// An input that may be left out.
    pub(crate) fn optional(&self, name: &str) -> Option<&'a [f32]> {
        let index = self.operator.inputs.iter().position(|p| p.name == name)?;
        self.numbers[index]
    }
}
