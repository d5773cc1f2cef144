//! Fewer bits: block formats, scale search, rounding, type recipes. Knows no files and no runtime.
