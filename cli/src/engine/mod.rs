//! The local engine: MiniStack in the place of AWS, a real PostgreSQL, and the same infrastructure deployed.

pub(crate) mod database;
pub(crate) mod deploy;
pub(crate) mod functions;
pub(crate) mod install;
pub(crate) mod ministack;

use std::fs::{self, File, TryLockError};

use anyhow::{Context, Result, bail};

use crate::environment::{self, Workspace};
use crate::progress::Progress;

/// What a running engine is reached by.
pub(crate) struct Engine {
    pub(crate) endpoint: String,
    pub(crate) database_url: String,
}

/// Everything from nothing, or only what is missing. Steps that do not need each other go side by side.
pub(crate) async fn up(workspace: &Workspace, release: bool) -> Result<Engine> {
    let _lock = lock(workspace)?;
    let progress = Progress::new();
    let python = async {
        let step = progress.step("python");
        let python = install::python(workspace, &step).await?;
        step.done(&format!(
            "ministack {}, cfn-lint {}",
            install::MINISTACK,
            install::CFN_LINT
        ));
        let engine = ministack::start(workspace, progress.step("engine"), &python);
        let layer = install::ffmpeg(workspace, progress.step("ffmpeg"), &python);
        tokio::try_join!(engine, layer)
    };
    let node = install::node_packages(workspace, progress.step("node"));
    let database = database::start(workspace, progress.step("postgres"));
    let functions = functions::build(workspace, progress.step("functions"), release);
    let ((endpoint, ()), (), database_url, ()) = tokio::try_join!(python, node, database, functions)?;

    let engine = Engine { endpoint, database_url };
    let deployment = deploy::deploy(workspace, progress.step("deploy"), &engine).await?;
    let values = [
        &engine.endpoint,
        deploy::REGION,
        deploy::ACCOUNT,
        "local",
        &engine.database_url,
        &deployment.assets_bucket,
        &deployment.queue_prefix,
    ];
    environment::write(&workspace.env_file(), values, &deployment.endpoints)?;
    Ok(engine)
}

/// Stops what runs; `wipe` forgets its data as well.
pub(crate) async fn down(workspace: &Workspace, wipe: bool) -> Result<()> {
    let _lock = lock(workspace)?;
    let progress = Progress::new();
    ministack::stop(workspace, progress.step("engine")).await?;
    database::stop(workspace, progress.step("postgres"), wipe).await?;
    if wipe {
        fs::remove_dir_all(workspace.local()).context("could not remove target/local")?;
    }
    Ok(())
}

/// Held while the engine is changed, so that two changes never mix.
fn lock(workspace: &Workspace) -> Result<File> {
    let folder = workspace.root.join("target");
    fs::create_dir_all(&folder).with_context(|| format!("could not make {}", folder.display()))?;
    // Beside target/local, which `down --wipe` removes.
    let file = File::create(folder.join("local.lock")).context("could not write target/local.lock")?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!("another `cargo jobs up` or `down` is at work here: wait for it to end"),
        Err(TryLockError::Error(error)) => Err(error).context("could not lock the engine"),
    }
}
