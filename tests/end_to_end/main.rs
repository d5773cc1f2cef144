//! The command from end to end: the built binary on real files. One program, because a program's link takes longer than
//! all of its tests.

mod calibrate;
mod cli;
mod common;
mod convert;
mod cuda;
mod descendants;
mod formats;
mod hostile;
mod inspect;
mod logits;
mod onnx;
mod onnxruntime;
mod quantize;
mod report;
mod variant;
mod verify;
