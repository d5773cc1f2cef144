//! The parity report: what it says, and its forms: JSON, a page, Markdown, and a few lines on the terminal.

mod charts;
mod data;
mod numbers;
mod pages;
mod palette;
#[cfg(test)]
mod schema;
mod terminal;
mod verdict;
mod visible;

pub use data::*;
pub use terminal::print;
pub use verdict::Check;

use crate::Result;
use std::path::Path;
use tamborim_converters::AtomicFile;

impl Reports {
    /// Of at least one candidate.
    pub fn new(mut reports: Vec<Report>) -> Reports {
        if reports.len() == 1 {
            return Reports::One(Box::new(reports.remove(0)));
        }
        let passed = reports.iter().all(|r| r.verdict == Verdict::Pass);
        Reports::Several { reports, verdict: if passed { Verdict::Pass } else { Verdict::Fail } }
    }

    /// One for each candidate, in the order of the command line.
    pub fn all(&self) -> &[Report] {
        match self {
            Reports::One(report) => std::slice::from_ref(report),
            Reports::Several { reports, .. } => reports,
        }
    }

    /// Whether all candidates pass.
    pub fn verdict(&self) -> Verdict {
        match self {
            Reports::One(report) => report.verdict,
            Reports::Several { verdict, .. } => *verdict,
        }
    }

    pub fn json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)?)
    }

    /// Writes `report.json`, `report.html` and `report.md` into `folder`.
    pub fn write(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        let pages = pages::render(self)?;
        for (name, text) in
            [("report.json", &self.json()?), ("report.html", &pages.html), ("report.md", &pages.markdown)]
        {
            let mut file = AtomicFile::create(&folder.join(name))?;
            file.put(text.as_bytes())?;
            file.commit()?;
        }
        Ok(())
    }
}
