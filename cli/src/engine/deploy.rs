//! The infrastructure of `infra/`, deployed into the local engine.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};
use serde::Deserialize;
use tokio::process::Command;

use super::{Engine, install};
use crate::environment::Workspace;
use crate::process;
use crate::progress::Step;

pub(crate) const REGION: &str = "us-east-1";
/// The access key; twelve digits name the emulator's account.
pub(crate) const ACCOUNT: &str = "000000000000";

/// What only the deployment knows; the last line that it prints.
#[derive(Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) struct Deployment {
    pub(crate) assets_bucket: String,
    pub(crate) queue_prefix: String,
    /// The URLs of endpoints, by name.
    pub(crate) endpoints: BTreeMap<String, String>,
}

/// Deploys what has changed since the last time.
pub(crate) async fn deploy(workspace: &Workspace, step: Step, engine: &Engine) -> Result<Deployment> {
    refresh_catalog(workspace, &step)?;
    let log = workspace.log("deploy");
    let mut node = Command::new("node");
    node.args(["--import", "tsx", "deploy-local.ts"])
        .current_dir(workspace.root.join("infra"))
        .env("PATH", install::node_path(workspace)?)
        .env("AWS_ENDPOINT_URL", &engine.endpoint)
        .env("AWS_REGION", REGION)
        .env("AWS_ACCESS_KEY_ID", ACCOUNT)
        .env("AWS_SECRET_ACCESS_KEY", "local")
        .env("DATABASE_URL", &engine.database_url)
        .env("LAMBDA_ASSETS", workspace.root.join("target/lambda"))
        .env("LAMBDA_LAYERS", workspace.layers());
    process::run(&step, "deploying infra/", &mut node, &log).await?;
    let output = fs::read_to_string(&log)?;
    let deployment: Deployment = output
        .lines()
        .find_map(|line| serde_json::from_str(line).ok())
        .with_context(|| format!("the deployment did not say what it made; see {}", log.display()))?;
    step.done(&format!(
        "{} queues, {} functions, bucket {}",
        jobs::catalog::ALL.len(),
        jobs::catalog::functions().count(),
        deployment.assets_bucket
    ));
    Ok(deployment)
}

/// The infrastructure reads the declarations from a file.
fn refresh_catalog(workspace: &Workspace, step: &Step) -> Result<()> {
    let file = workspace.root.join("infra/catalog.json");
    let current = serde_json::to_string_pretty(&jobs::manifest())? + "\n";
    if fs::read_to_string(&file).is_ok_and(|content| content == current) {
        return Ok(());
    }
    step.say("infra/catalog.json did not match the declarations: written anew");
    fs::write(&file, current).context("could not write infra/catalog.json")
}
