//! Running the command, and finding what it is run on.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// No command of these tests may take longer. It guards against a hang, and measures nothing.
const HANG: Duration = Duration::from_secs(300);

/// How a command ended.
pub struct Run {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    /// Largest resident memory, in bytes.
    pub peak: u64,
}

impl Run {
    /// The JSON document on stdout.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|e| panic!("stdout is one JSON document ({e}):\n{}", self.stdout))
    }

    /// Exit code 0, or a panic that shows what was said.
    #[track_caller]
    pub fn succeeds(self) -> Run {
        assert_eq!(self.code, Some(0), "expected success, found:\n{}{}", self.stdout, self.stderr);
        self
    }

    /// Exit code 2 and one line on stderr, which is returned.
    #[track_caller]
    pub fn fails(self) -> String {
        let problem = self.failure_problem();
        assert!(problem.is_none(), "{}: {}{}", problem.unwrap_or_default(), self.stdout, self.stderr);
        self.stderr
    }

    /// Why this is not how a command fails.
    pub fn failure_problem(&self) -> Option<String> {
        if self.code != Some(2) {
            return Some(format!("expected exit code 2, found {:?}", self.code));
        }
        if self.stderr.lines().count() != 1 || !self.stderr.starts_with("tamborim: ") {
            return Some("expected one line of error".to_owned());
        }
        (!self.stdout.is_empty()).then(|| "expected nothing on stdout".to_owned())
    }
}

/// A command about to run.
pub struct Tamborim {
    command: Command,
    hang: Duration,
}

impl Tamborim {
    pub fn new(args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Tamborim {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tamborim"));
        command.args(args);
        // What pip has installed for the tests is where a user's would be.
        if let Some(environment) = python().as_deref().and_then(|p| p.parent()?.parent()) {
            command.env("VIRTUAL_ENV", environment);
        }
        Tamborim { command, hang: HANG }
    }

    pub fn in_folder(mut self, folder: &Path) -> Tamborim {
        self.command.current_dir(folder);
        self
    }

    pub fn threads(mut self, n: usize) -> Tamborim {
        self.command.env("RAYON_NUM_THREADS", n.to_string());
        self
    }

    pub fn environment(mut self, name: &str, value: impl AsRef<OsStr>) -> Tamborim {
        self.command.env(name, value);
        self
    }

    pub fn without_environment(mut self, name: &str) -> Tamborim {
        self.command.env_remove(name);
        self
    }

    pub fn hang_after(mut self, limit: Duration) -> Tamborim {
        self.hang = limit;
        self
    }

    #[track_caller]
    pub fn run(mut self) -> Run {
        // Output goes to files, so that no full pipe can hold the command up.
        let dir = temp();
        let [out, err] = ["stdout", "stderr"].map(|n| dir.path().join(n));
        self.command.stdin(Stdio::null());
        self.command.stdout(File::create(&out).expect("a file")).stderr(File::create(&err).expect("a file"));
        let child = self.command.spawn().expect("the built command runs");
        let (code, peak) = wait(child, self.hang);
        let text = |path| String::from_utf8(std::fs::read(path).expect("what it said")).expect("UTF-8 output");
        let run = Run { code, stdout: text(&out), stderr: text(&err), peak };
        assert!(!run.stderr.contains("panicked"), "{:?}: {}", self.command, run.stderr);
        run
    }
}

/// Waits with the one call that also tells the child's peak memory. `None`: it was ended by a signal.
#[cfg(unix)]
fn wait(mut child: std::process::Child, limit: Duration) -> (Option<i32>, u64) {
    let started = Instant::now();
    let id = child.id() as libc::pid_t;
    loop {
        let mut status = 0;
        // SAFETY: all zeros is a valid rusage, a plain C struct of integers.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: both pointers are to live variables, and the child has not been waited for yet.
        let ended = unsafe { libc::wait4(id, &mut status, libc::WNOHANG, &mut usage) };
        if ended == id {
            let code = libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status));
            let unit = if cfg!(target_os = "macos") { 1 } else { 1024 };
            return (code, usage.ru_maxrss as u64 * unit);
        }
        if started.elapsed() > limit {
            let _ = child.kill();
            let _ = child.wait();
            panic!("the command hangs: it was stopped after {limit:?}");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Runs the command with these arguments, which may mix paths and text.
#[macro_export]
macro_rules! tamborim {
    ($($arg:expr),* $(,)?) => {
        $crate::common::Tamborim::new([$(std::ffi::OsString::from(&$arg)),*]).run()
    };
}

/// An empty folder that goes away.
pub fn temp() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

pub fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The full set of fixtures, trained models and texts, which lies outside the repository; `TAMBORIM_COMMITTED_ONLY` acts as
/// if it were not there.
pub fn shared() -> Option<PathBuf> {
    let path = project().join("../shared");
    (path.is_dir() && std::env::var_os("TAMBORIM_COMMITTED_ONLY").is_none()).then_some(path)
}

/// A file that only the full set has, or a note that the test is skipped.
pub fn only_shared(path: &str) -> Option<PathBuf> {
    let found = shared().map(|s| s.join(path)).filter(|p| p.exists());
    if found.is_none() {
        println!("skipped: ../shared/{path} is not there");
    }
    found
}

/// A folder below `fixtures`, of the full set or else of the committed subset.
pub fn fixtures(folder: &str) -> PathBuf {
    match shared() {
        Some(shared) => shared.join("fixtures").join(folder),
        None => project().join("tests/fixtures").join(folder),
    }
}

/// One fixture that is in the committed subset.
pub fn fixture(path: &str) -> PathBuf {
    let path = project().join("tests/fixtures").join(path);
    assert!(path.exists(), "{} is in the repository", path.display());
    path
}

/// The models in a folder of fixtures: those with a golden.
pub fn models_in(folder: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(fixtures(folder)).expect("the fixtures");
    let mut found: Vec<PathBuf> = entries.map(|e| e.expect("an entry").path()).collect();
    found.retain(|p| p.join("golden.safetensors").is_file());
    found.sort();
    assert!(!found.is_empty(), "no models in {folder}");
    found
}

/// Python with the packages that scripts/test.sh installs.
pub fn python() -> Option<PathBuf> {
    std::env::var_os("TAMBORIM_PYTHON").map(PathBuf::from)
}

pub fn name(path: &Path) -> String {
    path.file_name().expect("a name").to_string_lossy().into_owned()
}

/// The trained model of 6.7M parameters that ships with the command.
pub fn demo_model() -> PathBuf {
    project().join("demo/samba-7m/checkpoint.pth")
}

/// Our own page of text.
pub fn page() -> PathBuf {
    project().join("demo/page.txt")
}

/// The demo model as GGUF in the formats of `recipe`.
pub fn quantized(recipe: &str, folder: &Path) -> PathBuf {
    let path = folder.join(format!("{recipe}.gguf"));
    tamborim!["quantize", demo_model(), "--to", recipe, "-o", path].succeeds();
    path
}

/// A safetensors file.
pub struct Tensors(BTreeMap<String, (Vec<usize>, Vec<f64>)>);

impl Tensors {
    pub fn read(path: &Path) -> Tensors {
        use safetensors::Dtype;
        let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let numbers = |t: &safetensors::tensor::TensorView<'_>| -> Vec<f64> {
            let data = t.data();
            match t.dtype() {
                Dtype::F32 => data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b).into()).collect(),
                Dtype::I32 => data.as_chunks().0.iter().map(|b| i32::from_le_bytes(*b).into()).collect(),
                Dtype::I64 => data.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as f64).collect(),
                other => panic!("{}: {other:?} is not read here", path.display()),
            }
        };
        Tensors(file.iter().map(|(name, t)| (name.to_owned(), (t.shape().to_vec(), numbers(&t)))).collect())
    }

    /// One tensor.
    pub fn of(name: &str, shape: Vec<usize>, numbers: Vec<f64>) -> Tensors {
        Tensors(BTreeMap::from([(name.to_owned(), (shape, numbers))]))
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    #[track_caller]
    pub fn shape(&self, name: &str) -> &[usize] {
        &self.0[name].0
    }

    #[track_caller]
    pub fn numbers(&self, name: &str) -> &[f64] {
        &self.0[name].1
    }

    #[track_caller]
    pub fn integers(&self, name: &str) -> Vec<usize> {
        self.numbers(name).iter().map(|x| *x as usize).collect()
    }
}

/// Largest absolute difference; NaN counts as infinite.
#[track_caller]
pub fn max_difference(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len(), "as many numbers");
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, |max, d| if d > max || d.is_nan() { d } else { max })
}

/// All failures of a table of cases at once.
#[track_caller]
pub fn assert_none(failures: &[String]) {
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
}
