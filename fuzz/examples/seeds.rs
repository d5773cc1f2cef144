//! Writes the seeds of all targets below the folder that is given.

use std::{fs, path::PathBuf};

fn main() -> std::io::Result<()> {
    let folder = PathBuf::from(std::env::args().nth(1).expect("a folder"));
    for target in tamborim_fuzz::TARGETS {
        let corpus = folder.join(target.name);
        fs::create_dir_all(&corpus)?;
        for (number, bytes) in tamborim_fuzz::seeds::of(target.name).into_iter().enumerate() {
            fs::write(corpus.join(format!("seed-{number:02}")), bytes)?;
        }
    }
    Ok(())
}
