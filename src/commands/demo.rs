use crate::cli::Demo;
use crate::{Outcome, Result};

pub fn run(_: &Demo) -> Result<Outcome> {
    Err("not yet".into())
}
