//! The fuzz targets without a fuzzer: every input that one ever found fault with, and some thousands of damaged files,
//! the same in every run. Nothing may panic, take more memory than its length warrants, or run on.

#[path = "../../fuzz/src/lib.rs"]
mod targets;

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;
use targets::{TARGETS, seeds};

/// Damaged files per target.
const INPUTS: usize = 2000;
/// No input of this size takes more than some milliseconds; a loaded machine may be slow.
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn inputs_that_fuzzing_found_stay_harmless() {
    for target in TARGETS {
        let folder = seeds::fixtures().join("fuzz").join(target.name);
        let Ok(entries) = std::fs::read_dir(folder) else { continue };
        for entry in entries {
            let path = entry.expect("an entry").path();
            println!("{}", path.display());
            targets::run(target.name, &std::fs::read(&path).expect("a fixture"));
        }
    }
}

#[test]
fn damaged_files_never_panic_grow_or_hang() {
    for target in TARGETS {
        let (tell, told) = channel();
        let worker = thread::spawn(move || {
            let seeds = seeds::of(target.name);
            let mut damage = Damage(0x7a3b_0211_5a3b_a515);
            for seed in &seeds {
                targets::run(target.name, seed);
            }
            for number in 0..INPUTS {
                tell.send(number).expect("a listener");
                targets::run(target.name, &damage.to(&seeds));
            }
        });
        let mut last = None;
        loop {
            match told.recv_timeout(PATIENCE) {
                Ok(number) => last = Some(number),
                Err(RecvTimeoutError::Timeout) => panic!("{}: input {last:?} runs on", target.name),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        assert!(worker.join().is_ok(), "{}: input {last:?} panics", target.name);
        assert_eq!(last, Some(INPUTS - 1), "{}", target.name);
    }
}

/// What lengths, counts and offsets are where they do harm.
const NUMBERS: [u64; 12] =
    [0, 1, 0x7f, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 1 << 48, i64::MAX as u64, u64::MAX];

/// Random damage, the same in every run (xorshift).
struct Damage(u64);

impl Damage {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n.max(1) as u64) as usize
    }

    /// A place in a file. Headers come first, in zip archives last: there the damage is denser.
    fn place(&mut self, length: usize) -> usize {
        match self.below(4) {
            0 => self.below(length),
            1 => length - self.below(length.min(2000)) - 1,
            _ => self.below(length.min(4000)),
        }
    }

    /// One of `seeds`, damaged in one to four places.
    fn to(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = seeds[self.below(seeds.len())].clone();
        for _ in 0..=self.below(4) {
            if bytes.is_empty() {
                break;
            }
            let at = self.place(bytes.len());
            match self.below(9) {
                0 => bytes[at] ^= 1 << self.below(8),
                1 => bytes[at] = self.below(256) as u8,
                2 => bytes.truncate(at),
                3 => _ = bytes.drain(at..(at + 1 + self.below(40)).min(bytes.len())),
                4 => {
                    let end = (at + 1 + self.below(200)).min(bytes.len());
                    let piece = bytes[at..end].to_vec();
                    let to = self.place(bytes.len());
                    bytes.splice(to..to, piece);
                }
                // The beginning of one file, the end of another.
                5 => {
                    let other = &seeds[self.below(seeds.len())];
                    let from = self.below(other.len());
                    bytes.truncate(at);
                    bytes.extend(&other[from..]);
                }
                // A length, a little or very wrong.
                6 => bytes[at] = bytes[at].wrapping_add([1, 255, 2, 16][self.below(4)]),
                _ => {
                    let width = [1, 2, 4, 8][self.below(4)];
                    let number = NUMBERS[self.below(NUMBERS.len())];
                    let end = (at + width).min(bytes.len());
                    bytes[at..end].copy_from_slice(&number.to_le_bytes()[..end - at]);
                }
            }
        }
        bytes
    }
}
