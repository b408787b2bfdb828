//! The account that runs the server.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

#[derive(Clone, Copy, Debug)]
pub(super) enum Owner {
    /// Whoever runs us.
    Ourselves,
    /// We are root, which the server refuses to be.
    Other { uid: u32, gid: u32 },
}

impl Owner {
    pub(super) fn find() -> Result<Self> {
        let uid = Command::new("id")
            .arg("-u")
            .output()
            .context("the command `id` did not run")?;
        if uid.stdout.trim_ascii() != b"0" {
            return Ok(Self::Ourselves);
        }
        let accounts = fs::read_to_string("/etc/passwd").context("the accounts of this machine were not readable")?;
        let account = |name: &str| {
            let fields: Vec<&str> = accounts
                .lines()
                .map(|line| line.split(':').collect::<Vec<_>>())
                .find(|f| f[0] == name)?;
            Some(Self::Other {
                uid: fields.get(2)?.parse().ok()?,
                gid: fields.get(3)?.parse().ok()?,
            })
        };
        account("postgres")
            .or_else(|| account("nobody"))
            .context("no account `postgres` or `nobody` to run PostgreSQL as")
    }

    /// Whether every directory on the way lets the account through.
    pub(super) fn reaches(self, path: &Path) -> bool {
        let Self::Other { uid, gid } = self else { return true };
        path.ancestors()
            .filter_map(|place| fs::metadata(place).ok())
            .all(|place| {
                let allowed = match place.mode() {
                    mode if place.uid() == uid => mode & 0o100,
                    mode if place.gid() == gid => mode & 0o010,
                    mode => mode & 0o001,
                };
                allowed != 0
            })
    }

    pub(super) fn give(self, directory: &Path) -> Result<()> {
        if let Self::Other { uid, gid } = self {
            chown(directory, Some(uid), Some(gid))?;
        }
        Ok(())
    }

    pub(super) fn command(self, program: &Path) -> Command {
        let mut command = Command::new(program);
        if let Self::Other { uid, gid } = self {
            // The account may not be able to stand where we stand.
            command.uid(uid).gid(gid).current_dir("/");
        }
        command
    }
}

/// A place below `root` for the files of `origin`, always the same for the same.
pub(super) fn refuge(root: &str, what: &str, origin: &Path) -> PathBuf {
    let mut hash = DefaultHasher::new();
    origin.hash(&mut hash);
    Path::new(root).join(format!("jobs-postgres-{what}-{:016x}", hash.finish()))
}

pub(super) fn run(command: &mut Command) -> Result<()> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{command:?} did not start"))?;
    let said = [output.stderr, output.stdout].concat();
    ensure!(
        output.status.success(),
        "{command:?} failed: {}",
        String::from_utf8_lossy(&said).trim()
    );
    Ok(())
}
