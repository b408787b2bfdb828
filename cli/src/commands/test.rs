//! `jobs test`

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

use crate::engine;
use crate::engine::install;
use crate::environment::Workspace;

/// Run every test there is: Rust, infrastructure, and black box through the local engine.
#[derive(clap::Args)]
pub(crate) struct Test {
    /// Goes to `cargo test`, e.g. a part of a test's name; then only Rust tests run.
    filter: Vec<String>,
}

impl Test {
    pub(crate) async fn run(self) -> Result<()> {
        let workspace = Workspace::current();
        // Job tests and black-box tests run built binaries; what is up to date costs nothing.
        engine::up(&workspace, false).await?;
        step(
            "functions and fixtures",
            cargo(&workspace).args(["build", "--workspace", "--bins", "--examples"]),
        )
        .await?;
        step(
            "Rust tests",
            cargo(&workspace)
                .args(["test", "--workspace", "--no-fail-fast"])
                .args(&self.filter),
        )
        .await?;
        if !self.filter.is_empty() {
            return Ok(());
        }
        for (what, script) in [
            ("infrastructure: types", "check"),
            ("infrastructure: tests", "test"),
            ("infrastructure: cfn-lint", "lint:cfn"),
        ] {
            step(what, npm(&workspace)?.args(["run", "--silent", script])).await?;
        }
        println!("\nEvery test passed.");
        Ok(())
    }
}

async fn step(what: &str, command: &mut Command) -> Result<()> {
    eprintln!("\n== {what}");
    let status = command
        .stdin(Stdio::null())
        .status()
        .await
        .with_context(|| what.to_owned())?;
    ensure!(status.success(), "{what}: {status}");
    Ok(())
}

fn cargo(workspace: &Workspace) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(&workspace.root);
    cargo
}

fn npm(workspace: &Workspace) -> Result<Command> {
    let mut npm = Command::new("npm");
    npm.current_dir(workspace.root.join("infra"))
        .env("PATH", install::node_path(workspace)?)
        .env("CFN_LINT", workspace.engine().join("venv/bin/cfn-lint"));
    Ok(npm)
}
