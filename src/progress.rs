//! A progress bar on a terminal, one quiet line elsewhere.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::time::Instant;

/// Progress of one job.
pub struct Progress {
    bar: ProgressBar,
    started: Instant,
}

impl Progress {
    /// A job of `total` bytes.
    pub fn bytes(what: &str, total: u64) -> Progress {
        Progress::new(what, total, "{msg:>12} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}, {eta} left")
    }

    /// A job of `total` tokens.
    pub fn tokens(what: &str, total: u64) -> Progress {
        Progress::new(what, total, "{msg:>12} [{bar:30}] {pos}/{len} tokens, {per_sec}, {eta} left")
    }

    /// A job of `total` parts.
    pub fn items(what: &str, total: u64) -> Progress {
        Progress::new(what, total, "{msg:>12} [{bar:30}] {pos}/{len}, {eta} left")
    }

    fn new(what: &str, total: u64, template: &str) -> Progress {
        let bar = if std::io::stderr().is_terminal() { ProgressBar::new(total) } else { ProgressBar::hidden() };
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style.progress_chars("=> "));
        bar.set_message(what.to_owned());
        Progress { bar, started: Instant::now() }
    }

    /// `n` more are done.
    pub fn advance(&self, n: u64) {
        self.bar.inc(n);
    }

    /// Removes the bar; seconds since the start.
    pub fn finish(self) -> f64 {
        self.bar.finish_and_clear();
        self.started.elapsed().as_secs_f64()
    }
}
