//! `tamborim`: convert, quantize and verify Samba-family language models.

mod cli;
mod commands;
mod data;
mod device;
mod onnxruntime;
mod output;
mod pipeline;
mod progress;
mod random;
mod report;
mod source;

use std::process::ExitCode;

/// What a command returns; an error is one line for the user.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// How a command ended, when nothing went wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// Exit code 0.
    Done,
    /// Exit code 1: it ran, and a verify threshold was missed.
    ThresholdMissed,
}

fn main() -> ExitCode {
    hush_panics();
    // A defect of this program is still one line and exit code 2, as every other failure.
    let outcome = std::panic::catch_unwind(|| cli::Cli::from_arguments()?.run());
    match outcome
        .unwrap_or_else(|_| Err("internal error: please report what was run, with RUST_BACKTRACE=1 set".into()))
    {
        Ok(outcome) => {
            output::notes().iter().for_each(|line| eprintln!("{line}"));
            ExitCode::from(u8::from(outcome == Outcome::ThresholdMissed))
        }
        Err(error) => {
            eprintln!("tamborim: {}", output::one_line(&error.to_string()));
            ExitCode::from(2)
        }
    }
}

/// `tamborim inspect x | head` ends quietly, as other Unix tools do, instead of failing at the closed pipe. Other panics
/// speak only to those who ask for a backtrace.
fn hush_panics() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let message = info.payload().downcast_ref::<String>().map_or("", String::as_str);
        if message.starts_with("failed printing to stdout") {
            std::process::exit(0);
        }
        if std::env::var_os("RUST_BACKTRACE").is_some() {
            default(info);
        }
    }));
}
