//! One file a command.

pub mod bench;
pub mod calibrate;
pub mod convert;
pub mod demo;
pub mod generate;
pub mod inspect;
pub mod logits;
pub mod quantize;
pub mod verify;
