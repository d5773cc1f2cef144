//! How a tensor lies in its storage.

use super::Mismatch;
use std::borrow::Cow;

/// A checked window on a storage: every element lies inside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct View {
    /// The first element, counted from the beginning of the storage.
    pub offset: usize,
    /// Extent of each dimension, slowest first.
    pub shape: Vec<usize>,
    /// Distance between neighbours of each dimension, in elements.
    pub strides: Vec<usize>,
}

impl View {
    /// Checks a view as a file describes it against a window of `available` elements, which begins at element `base`.
    ///
    /// All elements of a weight are distinct, so a view with more elements than the window (stride 0) is refused as
    /// well: gathering it would let a small file fill any memory.
    pub(super) fn new(
        base: usize,
        available: usize,
        offset: i64,
        shape: &[i64],
        strides: &[i64],
    ) -> Result<View, Mismatch> {
        if shape.len() != strides.len() {
            return Err(Mismatch::new(format!("{} strides", shape.len()), strides.len().to_string()));
        }
        if shape.is_empty() {
            return Err(Mismatch::new("one dimension or more", "a scalar"));
        }
        let non_negative = |what: &str, values: &[i64]| -> Result<Vec<usize>, Mismatch> {
            let checked: Result<_, _> = values.iter().map(|&v| usize::try_from(v)).collect();
            checked.map_err(|_| Mismatch::new(format!("a {what} without negative numbers"), format!("{values:?}")))
        };
        let offset = non_negative("storage offset", &[offset])?[0];
        let (shape, strides) = (non_negative("shape", shape)?, non_negative("stride", strides)?);
        if shape.contains(&0) {
            return Err(Mismatch::new("one element or more", format!("shape {shape:?}")));
        }
        let too_many =
            || Mismatch::new(format!("at most the {available} elements of its storage"), format!("shape {shape:?}"));
        let elements = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).ok_or_else(too_many)?;
        if elements > available {
            return Err(too_many());
        }
        let last = shape.iter().zip(&strides).try_fold(offset, |at, (&d, &s)| at.checked_add((d - 1).checked_mul(s)?));
        match last {
            Some(last) if last < available => Ok(View { offset: base + offset, shape, strides }),
            _ => Err(Mismatch::new(
                format!("elements within its storage of {available}"),
                format!("offset {offset}, shape {shape:?}, strides {strides:?}"),
            )),
        }
    }

    /// How many elements it has.
    pub(super) fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether the elements lie in order and without gaps. The stride of a dimension of extent 1 means nothing.
    pub(super) fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        self.shape.iter().zip(&self.strides).rev().all(|(&extent, &stride)| {
            let fits = extent == 1 || stride == expected;
            expected *= extent;
            fits
        })
    }

    /// The elements in row-major order: borrowed where they lie so, gathered otherwise. `storage` holds whole elements
    /// of `size` bytes and is the one this view was checked against.
    pub(super) fn extract<'m>(&self, storage: Cow<'m, [u8]>, size: usize) -> Cow<'m, [u8]> {
        let bytes = self.elements() * size;
        if self.is_contiguous() {
            let range = self.offset * size..self.offset * size + bytes;
            return match storage {
                Cow::Borrowed(storage) => Cow::Borrowed(&storage[range]),
                Cow::Owned(storage) if range == (0..storage.len()) => Cow::Owned(storage),
                Cow::Owned(storage) => Cow::Owned(storage[range].to_vec()),
            };
        }
        let mut gathered = Vec::with_capacity(bytes);
        self.for_each_row(|first, length, stride| {
            if stride == 1 {
                gathered.extend_from_slice(&storage[first * size..(first + length) * size]);
            } else {
                for i in 0..length {
                    let at = (first + i * stride) * size;
                    gathered.extend_from_slice(&storage[at..at + size]);
                }
            }
        });
        Cow::Owned(gathered)
    }

    /// Calls `row(first element, elements, stride)` for each run along the last dimension, in order.
    pub(super) fn for_each_row(&self, mut row: impl FnMut(usize, usize, usize)) {
        let Some((&length, outer_shape)) = self.shape.split_last() else { return };
        let Some((&stride, outer_strides)) = self.strides.split_last() else { return };
        let mut index = vec![0; outer_shape.len()];
        let mut first = self.offset;
        loop {
            row(first, length, stride);
            // Odometer: advance the fastest outer dimension that has not reached its end, rewind those behind it.
            let Some(d) = (0..index.len()).rev().find(|&d| {
                if index[d] + 1 < outer_shape[d] {
                    return true;
                }
                first -= index[d] * outer_strides[d];
                index[d] = 0;
                false
            }) else {
                return;
            };
            index[d] += 1;
            first += outer_strides[d];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transposed_view_is_gathered_and_a_contiguous_one_is_borrowed() {
        let storage: Vec<u8> = (0..24).collect();
        let view = View::new(0, 12, 1, &[3, 2], &[1, 4]).expect("fits");
        let gathered = view.extract(Cow::Borrowed(&storage), 2);
        assert_eq!(gathered.as_ref(), [2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15]);
        let view = View::new(0, 12, 2, &[1, 2, 5], &[99, 5, 1]).expect("fits");
        assert!(matches!(view.extract(Cow::Borrowed(&storage), 2), Cow::Borrowed(b) if b == &storage[4..24]));
    }

    #[test]
    fn views_that_leave_their_storage_are_refused() {
        let cases: [(i64, &[i64], &[i64]); 9] = [
            (0, &[13], &[1]),
            (1, &[12], &[1]),
            (0, &[2], &[12]),
            (-1, &[1], &[1]),
            (0, &[-1], &[1]),
            (0, &[2], &[-1]),
            (0, &[1 << 33, 1 << 33], &[1, 1]),
            (0, &[2, 2], &[1 << 62, 1 << 62]),
            (0, &[1 << 40], &[0]),
        ];
        for (offset, shape, strides) in cases {
            assert!(View::new(0, 12, offset, shape, strides).is_err(), "{offset} {shape:?} {strides:?}");
        }
        assert!(View::new(0, 12, 0, &[12], &[1]).is_ok());
    }
}
