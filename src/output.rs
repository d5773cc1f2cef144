//! Words and tables for people.

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};
use std::sync::Mutex;

/// Keeps a message on one line, and terminal controls that a file name or tensor name may carry off the terminal.
pub fn one_line(message: &str) -> String {
    message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// What a command that succeeds says on stderr at its end; one that fails says its one line alone.
static NOTES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Keeps a line for the end.
pub fn note(line: String) {
    NOTES.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(line);
}

/// The lines kept so far.
pub fn notes() -> Vec<String> {
    std::mem::take(&mut *NOTES.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
}

/// A borderless table; columns whose header starts with `>` are aligned right.
pub fn table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.iter().map(|h| Cell::new(h.trim_start_matches('>'))));
    for row in rows {
        table.add_row(row.iter().map(|c| Cell::new(one_line(c))));
    }
    for (column, h) in table.column_iter_mut().zip(header) {
        column.set_padding((0, 2));
        if h.starts_with('>') {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.lines().map(|l| l.trim_end().to_owned() + "\n").collect()
}

/// `1234567` as `1.23 MB`.
pub fn bytes(n: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    let decimals = if unit == 0 || value >= 99.95 {
        0
    } else if value >= 9.995 {
        1
    } else {
        2
    };
    format!("{value:.decimals$} {}", units[unit])
}

/// `61203968` as `61.2 M`.
pub fn count(n: usize) -> String {
    match n {
        0..10_000 => n.to_string(),
        10_000..1_000_000 => format!("{:.1} k", n as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} M", n as f64 / 1e6),
        _ => format!("{:.2} B", n as f64 / 1e9),
    }
}
