//! Tensor names of Hugging Face families that have names of their own: a table each, from canonical names.

mod phi4flash;
mod plamo2;

use crate::tensor::{Naming, Stored, View};

/// Canonical name, name there, and how it is stored there.
type Row = (&'static str, &'static str, View);

/// The names of one family.
struct Table {
    naming: Naming,
    /// Tensors outside the blocks.
    top: &'static [Row],
    /// What names of a block begin with, before its number.
    blocks: &'static str,
    /// Tensors of a block, below it.
    block: &'static [Row],
}

const TABLES: [&Table; 2] = [&phi4flash::TABLE, &plamo2::TABLE];

/// Where each of these families keeps the tensor called `name`, below `block` if it is in one.
pub(crate) fn stored(block: Option<usize>, name: &str) -> impl Iterator<Item = (Naming, Stored)> {
    TABLES.into_iter().filter_map(move |table| {
        let rows = if block.is_some() { table.block } else { table.top };
        let (_, key, view) = rows.iter().find(|(canonical, ..)| *canonical == name)?;
        let key = match block {
            Some(i) => format!("{}{i}.{key}", table.blocks),
            None => (*key).to_owned(),
        };
        Some((table.naming, Stored { key, view: view.clone() }))
    })
}
