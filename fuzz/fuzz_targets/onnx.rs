#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tamborim_fuzz::run("onnx", bytes));
