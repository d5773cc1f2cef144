/// How far numbers are from the reference's: the root of summed squared differences over summed squares, in float64.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RelativeError {
    differences: f64,
    squares: f64,
}

impl RelativeError {
    /// Counts `candidate` in, against as many numbers of `reference`.
    pub fn add(&mut self, reference: &[f32], candidate: &[f32]) {
        for (&a, &b) in reference.iter().zip(candidate) {
            let (a, b) = (f64::from(a), f64::from(b));
            self.differences += (a - b) * (a - b);
            self.squares += a * a;
        }
    }

    /// The error; 0 where nothing differs.
    pub fn value(&self) -> f64 {
        if self.differences == 0.0 { 0.0 } else { (self.differences / self.squares).sqrt() }
    }
}
