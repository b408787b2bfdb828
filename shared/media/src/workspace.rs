use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use crate::Error;

/// Begins the name of every workspace.
const PREFIX: &str = "job-";
/// Between making a lock and taking it, generously.
const A_MOMENT: Duration = Duration::from_secs(60);
/// Held for as long as the workspace is in use.
const LOCK: &str = "lock";

/// A folder of its own below `/tmp` (or `TMPDIR`). It goes when it is dropped.
#[derive(Debug)]
pub struct Workspace {
    folder: TempDir,
    _lock: File,
}

impl Workspace {
    /// Makes one, after removing what processes that died have left.
    ///
    /// # Errors
    /// [`Error::Machine`].
    pub fn new() -> Result<Self, Error> {
        let root = std::env::temp_dir();
        remove_leftovers(&root);
        let unusable = |error: std::io::Error| Error::machine("there is no room to work in", &error);
        let folder = tempfile::Builder::new()
            .prefix(PREFIX)
            .tempdir_in(&root)
            .map_err(unusable)?;
        let lock = File::create(folder.path().join(LOCK)).map_err(unusable)?;
        lock.lock().map_err(unusable)?;
        Ok(Self { folder, _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A file in it, which may not exist yet.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// Removes workspaces that nobody holds. On Lambda one environment has one process and a `/tmp` of its own; on other machines another
/// process may be at work in its workspace, which its lock tells.
fn remove_leftovers(root: &Path) {
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX)) {
        let lock = File::open(entry.path().join(LOCK));
        let is_left = lock.is_ok_and(|lock| !is_new(&lock) && lock.try_lock().is_ok());
        if is_left && let Err(error) = fs::remove_dir_all(entry.path()) {
            tracing::warn!(%error, "a workspace was left and cannot be removed");
        }
    }
}

/// One that was only just made may be about to be locked.
fn is_new(lock: &File) -> bool {
    let made = lock.metadata().and_then(|lock| lock.modified());
    made.is_ok_and(|made| made.elapsed().is_ok_and(|age| age < A_MOMENT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workspace_goes_with_its_owner_and_at_the_latest_when_the_next_one_is_made() {
        let held = Workspace::new().unwrap();
        let gone = Workspace::new().unwrap().path().to_owned();
        assert!(!gone.exists());
        // As a process leaves it that is killed: the lock is open no more.
        let left = std::env::temp_dir().join(format!("{PREFIX}left-{}", std::process::id()));
        fs::create_dir_all(&left).unwrap();
        let lock = File::create(left.join(LOCK)).unwrap();
        lock.set_modified(std::time::SystemTime::now() - 2 * A_MOMENT).unwrap();
        drop(lock);

        let _next = Workspace::new().unwrap();

        assert!(!left.exists());
        assert!(held.path().exists(), "somebody is at work there");
    }
}
