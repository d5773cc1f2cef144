//! Moments while they are gathered: sums that do not depend on the order of their terms.

use crate::Moments;
use crate::simd::{Level, dispatch};

/// Terms are whole multiples of this: 2^-32.
const QUANTUM: f64 = 1.0 / (1u64 << 32) as f64;

/// Sums stay below this: 2^44, so that a sum and what its float64 rounds away fit a float64 and a float32. A channel that is
/// a thousand all the time reaches it after 17 million tokens.
const LIMIT: f64 = (1u64 << 44) as f64;

/// [`Moments`] together with what their float64 numbers round away.
///
/// Every term is rounded to a multiple of 2^-32 once; from there on nothing is lost. The sum of `lower[i] + rests[i]` is
/// exact, `lower[i]` is the float64 nearest to it: sums gathered in any order, on any number of machines, are equal bit
/// for bit when put together.
///
/// ```text
///   2^44         2^-8        2^-32
///    | lower: 53 bits |
///                 | rest: 24 bits |
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Sums {
    /// The sums as rounding uses them.
    pub moments: Moments,
    /// Exact sums less `moments.lower`: at most half a unit in the last place of those.
    pub rests: Vec<f32>,
}

impl Sums {
    /// Sums over no tokens.
    pub fn new(maps: Vec<String>, width: usize, block: usize) -> Sums {
        let moments = Moments::new(maps, width, block);
        let rests = vec![0.0; moments.lower.len()];
        Sums { moments, rests }
    }

    /// Adds the sums of another run over the same input.
    ///
    /// # Panics
    /// If the other's extents differ.
    pub fn merge(&mut self, other: &Sums) {
        let (a, b) = (&self.moments, &other.moments);
        assert_eq!((a.width, a.block), (b.width, b.block), "moments of one input");
        self.moments.count += other.moments.count;
        let sums = self.moments.lower.iter_mut().zip(&mut self.rests);
        for ((value, rest), (term, term_rest)) in sums.zip(other.moments.lower.iter().zip(&other.rests)) {
            add(value, rest, *term);
            add(value, rest, f64::from(*term_rest));
        }
    }

    /// Sums that were gathered in finer multiples, each rounded to one of those that are gathered now: from here on they add
    /// up exactly.
    pub fn coarsened(mut self) -> Sums {
        for (value, rest) in self.moments.lower.iter_mut().zip(&mut self.rests) {
            let whole = nearest_multiple(*value);
            let left = nearest_multiple((*value - whole) + f64::from(*rest));
            (*value, *rest) = (whole, 0.0);
            add(value, rest, left);
        }
        self
    }

    /// A sum of squares, if there is one, that is too large to stay exact, negative or not a number. Sums of products are
    /// no larger than those of squares.
    pub fn out_of_range(&self) -> Option<f64> {
        self.moments.squares().into_iter().find(|s| !(0.0..LIMIT).contains(s))
    }
}

/// Adds `terms`, rounded to multiples of 2^-32, to the exact sums `values + rests`, number by number.
pub fn accumulate(values: &mut [f64], rests: &mut [f32], terms: &[f64]) {
    accumulate_on(Level::best(), values, rests, terms);
}

dispatch!(fn accumulate_on = accumulate_body(values: &mut [f64], rests: &mut [f32], terms: &[f64]));

#[inline(always)]
fn accumulate_body(values: &mut [f64], rests: &mut [f32], terms: &[f64]) {
    for ((value, rest), term) in values.iter_mut().zip(rests).zip(terms) {
        add(value, rest, nearest_multiple(*term));
    }
}

#[inline(always)]
fn nearest_multiple(x: f64) -> f64 {
    (x * (1.0 / QUANTUM)).round_ties_even() * QUANTUM
}

/// Knuth's exact sum of two numbers, then Dekker's for the two parts: the larger part is the float64 nearest to the whole.
#[inline(always)]
fn add(value: &mut f64, rest: &mut f32, term: f64) {
    let sum = *value + term;
    let part = sum - *value;
    let lost = (*value - (sum - part)) + (term - part) + f64::from(*rest);
    *value = sum + lost;
    *rest = (lost - (*value - sum)) as f32;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Terms of very different sizes and both signs.
    fn terms(seed: u64) -> Vec<f64> {
        let mut state = seed * 2 + 1;
        let mut draw = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as f64 / (1u64 << 31) as f64
        };
        (0..6)
            .map(|i| (draw() - if i == 1 || i == 3 || i == 4 { 0.5 } else { 0.0 }) * (draw() * 60.0 - 35.0).exp2())
            .collect()
    }

    fn gathered(seeds: &[u64]) -> Sums {
        let mut sums = Sums::new(vec!["a".to_owned()], 3, 3);
        for seed in seeds {
            let moments = &mut sums.moments;
            moments.count += 1;
            accumulate(&mut moments.lower, &mut sums.rests, &terms(*seed));
        }
        sums
    }

    #[test]
    fn sums_of_any_order_and_any_parts_are_equal_bit_for_bit() {
        let all: Vec<u64> = (0..500).collect();
        let whole = gathered(&all);
        assert!(whole.rests.iter().any(|r| *r != 0.0), "float64 alone would not be enough");
        let mut backwards = all.clone();
        backwards.reverse();
        assert_eq!(gathered(&backwards), whole);
        for cut in [1, 77, 499] {
            let (a, b) = (gathered(&all[..cut]), gathered(&all[cut..]));
            for (mut first, second) in [(a.clone(), b.clone()), (b, a)] {
                first.merge(&second);
                assert_eq!(first, whole, "{cut}");
            }
        }
    }

    #[test]
    fn sums_are_those_of_integers() {
        let sums = gathered(&(0..500).collect::<Vec<_>>());
        for i in 0..6 {
            let exact: i128 = (0..500).map(|seed| (terms(seed)[i] / QUANTUM).round_ties_even() as i128).sum();
            let held = (sums.moments.lower[i] / QUANTUM) as i128 + (f64::from(sums.rests[i]) / QUANTUM) as i128;
            assert_eq!(held, exact, "{i}");
            assert_eq!(sums.moments.lower[i], exact as f64 * QUANTUM, "the nearest float64 of {i}");
        }
    }

    #[test]
    fn sums_are_exact_up_to_their_limit() {
        let mut sums = Sums::new(Vec::new(), 1, 1);
        for term in [LIMIT / 2.0, QUANTUM, LIMIT / 2.0 - 1.0, 1.0 - 2.0 * QUANTUM] {
            accumulate(&mut sums.moments.lower, &mut sums.rests, &[term]);
        }
        assert_eq!((sums.moments.lower[0], sums.rests[0]), (LIMIT, -QUANTUM as f32));
        accumulate(&mut sums.moments.lower, &mut sums.rests, &[-1.0]);
        assert_eq!((sums.moments.lower[0], sums.rests[0]), (LIMIT - 1.0, -QUANTUM as f32));
    }

    #[test]
    fn finer_sums_become_multiples_of_the_quantum() {
        let fine = QUANTUM / 256.0;
        let mut sums = Sums::new(Vec::new(), 1, 1);
        // What the float64 rounds away tips the sum over.
        (sums.moments.lower[0], sums.rests[0]) = ((1u64 << 34) as f64, (129.0 * fine) as f32);
        let coarse = sums.clone().coarsened();
        assert_eq!((coarse.moments.lower[0], coarse.rests[0]), (sums.moments.lower[0], QUANTUM as f32));
        assert_eq!(coarse.clone().coarsened(), coarse);
        sums.rests[0] = (127.0 * fine) as f32;
        assert_eq!(sums.clone().coarsened().rests[0], 0.0);
    }

    #[test]
    fn sums_that_could_not_stay_exact_are_refused() {
        for square in [LIMIT, f64::INFINITY, f64::NAN, -1.0] {
            let mut sums = Sums::new(Vec::new(), 1, 1);
            accumulate(&mut sums.moments.lower, &mut sums.rests, &[square]);
            assert!(sums.out_of_range().is_some(), "{square}");
        }
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        let run = |level| {
            let (mut values, mut rests) = (vec![0.0; 6], vec![0.0; 6]);
            (0..100).for_each(|seed| accumulate_on(level, &mut values, &mut rests, &terms(seed)));
            (values, rests)
        };
        for level in Level::available() {
            assert_eq!(run(level), run(Level::available()[0]));
        }
    }
}
