//! Where the function under test is.

use std::collections::HashMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

/// A built program of the profile that runs now: a job by its name, an example as `examples/<name>`.
///
/// # Panics
///
/// When it is missing, or older than a source of it: a test of yesterday's program proves nothing.
pub fn binary(name: &str) -> PathBuf {
    // Looked at once: somebody may edit a source while the tests run.
    static FOUND: Mutex<Option<HashMap<String, Result<PathBuf, String>>>> = Mutex::new(None);
    let mut found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    let binary = found.get_or_insert_default().entry(name.to_owned());
    match binary.or_insert_with(|| find(name)).clone() {
        Ok(path) => path,
        Err(reason) => {
            drop(found);
            panic!("{reason}")
        }
    }
}

fn find(name: &str) -> Result<PathBuf, String> {
    let ourselves = env::current_exe().map_err(|error| format!("no path of the running program: {error}"))?;
    let directory = ourselves.parent().unwrap_or(&ourselves);
    // Tests and examples stand one level deeper than programs.
    let deeper = directory.ends_with("deps") || directory.ends_with("examples");
    let profile = directory.parent().filter(|_| deeper).unwrap_or(directory);
    let binary = profile.join(name);
    let release = if profile.ends_with("release") { " --release" } else { "" };
    let target = match name.strip_prefix("examples/") {
        Some(example) => format!("--example {example}"),
        None => format!("--bin {name}"),
    };
    let remedy = format!("cargo build{release} {target}");
    let built = modified(&binary).ok_or_else(|| format!("{} is not built: {remedy}", binary.display()))?;
    // Cargo notes beside each program what it was built from.
    let sources = fs::read_to_string(binary.with_extension("d")).unwrap_or_default();
    let sources = sources.split_once(": ").map_or("", |(_, sources)| sources).trim_end();
    let newer = |source: &String| modified(Path::new(source)).is_some_and(|changed| changed > built);
    let sources = sources.replace("\\ ", "\0");
    let mut sources = sources.split(' ').map(|source| source.replace('\0', " "));
    match sources.find(newer) {
        Some(source) => Err(format!("{} is older than {source}: {remedy}", binary.display())),
        None => Ok(binary),
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).ok()?.modified().ok()
}
