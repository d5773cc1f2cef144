//! Formats by name and number; tensors whose parts do not fit are refused.

use tamborim_quant::{Error, Format, Tensor};

#[test]
fn formats_are_found_by_name_and_number() {
    for &format in Format::ALL {
        assert_eq!(Format::from_name(format.name()), Some(format));
        assert_eq!(format.to_string().to_uppercase().parse(), Ok(format));
        assert_eq!(Format::from_gguf_type(format.gguf_type()), Some(format));
    }
    assert_eq!(Format::from_gguf_type(9999), None);
    let error = "q9_z".parse::<Format>().unwrap_err();
    assert!(error.to_string().contains("q9_z") && error.to_string().contains("q4_k"), "{error}");
}

#[test]
fn sizes_are_those_of_ggml() {
    let sizes = [
        ("f32", 1024),
        ("f16", 512),
        ("bf16", 512),
        ("q8_0", 272),
        ("q4_0", 144),
        ("q4_1", 160),
        ("q5_0", 176),
        ("q4_k", 144),
        ("q5_k", 176),
        ("q6_k", 210),
        ("iq4_nl", 144),
        ("iq4_xs", 136),
    ];
    for (name, bytes) in sizes {
        assert_eq!(Format::from_name(name).unwrap().row_bytes(256), Some(bytes), "{name}");
    }
    assert_eq!(Format::Q4K.row_bytes(288), None);
    assert_eq!(Format::F32.row_bytes(usize::MAX), None);
    assert_eq!(Format::Q6K.bits_per_weight(), 6.5625);
    assert!(Format::Q8_0.fits(96) && !Format::Q4K.fits(96));
}

#[test]
fn tensors_that_do_not_fit_are_refused() {
    let cases: [(Format, Vec<usize>, usize, &str); 4] = [
        (Format::Q8_0, vec![2, 32], 67, "68 bytes, found 67"),
        (Format::Q4K, vec![2, 32], 36, "rows of 32 elements do not divide into q4_k blocks of 256"),
        (Format::F32, vec![usize::MAX, 2], 0, "too large"),
        (Format::F32, vec![usize::MAX / 2], 0, "too large"),
    ];
    for (format, shape, len, message) in cases {
        let error = Tensor::new(format, shape, vec![0; len]).unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
    }
    let short = Tensor::quantize(&[0.0; 64], vec![1, 64], Format::Q8_0, Some(&[1.0; 32]));
    assert_eq!(short.unwrap_err(), Error::ImportanceLength { expected: 64, found: 32 });
    assert!(Tensor::quantize(&[0.0; 63], vec![1, 64], Format::Q8_0, None).is_err());
}

#[test]
fn scalars_vectors_and_empty_tensors_are_tensors() {
    for (shape, rows, cols) in
        [(vec![], 1, 1), (vec![64], 1, 64), (vec![3, 2, 32], 6, 32), (vec![0, 32], 0, 32), (vec![4, 0], 4, 0)]
    {
        let values = vec![0.5; rows * cols];
        let tensor = Tensor::quantize(&values, shape.clone(), Format::F16, None).unwrap();
        assert_eq!((tensor.rows(), tensor.cols(), tensor.elements()), (rows, cols, rows * cols));
        assert_eq!(tensor.to_f32(), values);
        let wide = tensor.recode(Format::F32, None).unwrap();
        assert_eq!((wide.shape, wide.bytes.len()), (shape, 4 * rows * cols));
    }
}

#[test]
fn rows_are_slices_of_the_bytes() {
    let values: Vec<f32> = (0..96).map(|i| i as f32).collect();
    let tensor = Tensor::quantize(&values, vec![3, 32], Format::Q8_0, None).unwrap();
    let mut row = [0.0; 32];
    tensor.format.decode(tensor.row(2), &mut row);
    assert_eq!(row[..], tensor.to_f32()[64..]);
}
