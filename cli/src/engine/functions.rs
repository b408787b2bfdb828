//! The functions as AWS wants them: `target/lambda/<job>/bootstrap.zip`, where cargo-lambda puts them too.

use std::fs::{self, File};
use std::io::Write;
use std::num::NonZero;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use futures::stream::{self, StreamExt, TryStreamExt};
use tokio::process::Command;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

use super::install::Stamp;
use crate::environment::Workspace;
use crate::process;
use crate::progress::Step;

/// Builds and packs every function of the catalog.
pub(crate) async fn build(workspace: &Workspace, step: Step, release: bool) -> Result<()> {
    let functions: Vec<_> = jobs::catalog::functions().collect();
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // All of them at once, and no others: any other choice has other features, and compiles what they share again.
    cargo
        .args(["build", "--workspace", "--bins"])
        .current_dir(&workspace.root);
    if release {
        cargo.arg("--release");
    }
    process::run(&step, "cargo build", &mut cargo, &workspace.log("cargo-build")).await?;
    // Cargo built this program too, so the others are near it, whatever its target directory.
    let own = std::env::current_exe()?;
    let target = own
        .parent()
        .and_then(Path::parent)
        .context("this program is in no target directory")?;
    let binaries = target.join(if release { "release" } else { "debug" });
    let workers = std::thread::available_parallelism().map_or(1, NonZero::get);
    let packing = functions
        .iter()
        .map(|name| pack(workspace, &step, name, binaries.join(name)));
    let packed: Vec<bool> = stream::iter(packing).buffer_unordered(workers).try_collect().await?;
    let packed = packed.iter().filter(|packed| **packed).count();
    step.done(&format!("{} functions, {packed} of them new", functions.len()));
    Ok(())
}

/// Strips and zips one program, unless that was done before; true if it was done now.
async fn pack(workspace: &Workspace, step: &Step, job: &str, binary: PathBuf) -> Result<bool> {
    let folder = workspace.root.join("target/lambda").join(job);
    fs::create_dir_all(&folder).with_context(|| format!("could not make {}", folder.display()))?;
    let metadata = fs::metadata(&binary).with_context(|| format!("cargo built no {}", binary.display()))?;
    let content = format!("{} {} {:?}", binary.display(), metadata.len(), metadata.modified()?);
    let stamp = Stamp {
        file: folder.join("packed"),
        content,
    };
    let archive = folder.join("bootstrap.zip");
    if stamp.is_fresh() && archive.exists() {
        return Ok(false);
    }
    step.note(format!("packing {job}"));
    // Most of a debug build is debug information. Of a copy: the build keeps its own.
    let stripped = folder.join("bootstrap");
    if process::output(Command::new("strip").arg("-o").arg(&stripped).arg(&binary))
        .await
        .is_none()
    {
        fs::copy(binary, &stripped)?;
    }
    let partial = folder.join("bootstrap.partial");
    let (from, to) = (stripped.clone(), partial.clone());
    let zipped = tokio::task::spawn_blocking(move || zip(&fs::read(from)?, &to)).await?;
    zipped.with_context(|| format!("could not pack {job}"))?;
    fs::remove_file(stripped)?;
    fs::rename(partial, archive)?;
    stamp.write()?;
    Ok(true)
}

/// Equal programs make equal archives, so that nothing is deployed without need.
fn zip(program: &[u8], archive: &Path) -> Result<()> {
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Deflated)
        .compression_level(Some(1))
        .last_modified_time(DateTime::default())
        .unix_permissions(0o755);
    let mut zip = ZipWriter::new(File::create(archive)?);
    zip.start_file("bootstrap", options)?;
    zip.write_all(program)?;
    zip.finish()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_programs_make_equal_archives() {
        let archive = |number| std::env::temp_dir().join(format!("jobs-zip-{}-{number}", std::process::id()));
        let bytes = [1, 2].map(|number| {
            zip(b"program", &archive(number)).unwrap();
            let bytes = fs::read(archive(number)).unwrap();
            fs::remove_file(archive(number)).unwrap();
            bytes
        });
        assert_eq!(bytes[0], bytes[1]);
    }
}
