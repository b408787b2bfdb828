//! MiniStack: SQS, Lambda, Scheduler, S3, SES and CloudFormation in one process that outlives the CLI.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use crate::environment::Workspace;
use crate::process::{self, Daemon};
use crate::progress::Step;

const PORT: u16 = 4566;

/// Starts it, unless it runs; gives its address.
pub(crate) async fn start(workspace: &Workspace, step: Step, python: &Path) -> Result<String> {
    if let Some(endpoint) = running(workspace).await {
        step.done(&format!("running at {endpoint}"));
        return Ok(endpoint);
    }
    let daemon = daemon(workspace);
    // One that runs and does not answer is of no use to anybody.
    daemon.stop().await?;

    let home = workspace.local().join("engine");
    fs::create_dir_all(home.join("tmp")).with_context(|| format!("could not make {}", home.display()))?;
    // The last port again if it is free: queue URLs that somebody kept stay right.
    let last = port(workspace).unwrap_or(PORT);
    let port = process::free_port(last)?;
    if port != last {
        follow(&home.join("state"), last, port)?;
    }
    // Before anything can fail: what was kept is that port's now.
    fs::write(port_file(workspace), port.to_string())?;
    let endpoint = address(port);
    let log = workspace.log("engine");
    daemon.start(
        // Functions inherit the whole environment of the engine, so it gets no more than it needs.
        Command::new(python)
            .args(["-m", "ministack"])
            .current_dir(&home)
            .env_clear()
            .envs(settings(&home, port)),
        &log,
    )?;
    step.note("waiting for it to answer");
    let answers = async || running(workspace).await.is_some();
    process::wait_until(Duration::from_secs(30), answers)
        .await
        .map_err(|error| {
            anyhow!(
                "the engine did not start: {error}; the end of {}:\n{}",
                log.display(),
                process::tail(&log)
            )
        })?;
    step.done(&format!("MiniStack started at {endpoint}"));
    Ok(endpoint)
}

/// Takes what the engine kept along to another port: it knows queues by their whole URL, and event sources would go on asking for those
/// to which nobody sends any more. Before its first start it has kept nothing, and there is no folder.
fn follow(state: &Path, from: u16, to: u16) -> Result<()> {
    let (from, to) = (address(from), address(to));
    for file in state.read_dir().into_iter().flatten() {
        let path = file?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let kept = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            if kept.contains(&from) {
                fs::write(&path, kept.replace(&from, &to)).with_context(|| path.display().to_string())?;
            }
        }
    }
    Ok(())
}

fn settings(home: &Path, port: u16) -> BTreeMap<&'static str, String> {
    let path = std::env::var("PATH").unwrap_or_default();
    let home = home.display();
    BTreeMap::from([
        ("PATH", path),
        ("HOME", home.to_string()),
        ("TMPDIR", format!("{home}/tmp")),
        // Its default is every interface.
        ("BIND_HOST", "127.0.0.1".into()),
        ("MINISTACK_HOST", "127.0.0.1".into()),
        ("GATEWAY_PORT", port.to_string()),
        // The only way a function learns its endpoint; without it, it would talk to the real AWS.
        ("AWS_ENDPOINT_URL", address(port)),
        ("SFTP_ENABLED", "0".into()),
        ("IOT_MTLS_ENABLED", "0".into()),
        ("LOG_LEVEL", "WARNING".into()),
        // Queues and what is deployed survive `down`, as the database does.
        ("PERSIST_STATE", "1".into()),
        ("STATE_DIR", format!("{home}/state")),
    ])
}

pub(crate) async fn stop(workspace: &Workspace, step: Step) -> Result<()> {
    let ran = daemon(workspace).stop().await?;
    step.done(if ran { "stopped" } else { "was not running" });
    Ok(())
}

/// The address of the engine of this workspace, if it answers.
pub(crate) async fn running(workspace: &Workspace) -> Option<String> {
    daemon(workspace).pid().await?;
    let port = port(workspace)?;
    healthy(port).then(|| address(port))
}

/// A request of one line is no reason for an HTTP client.
fn healthy(port: u16) -> bool {
    let patience = Duration::from_secs(2);
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), patience)?;
        stream.set_read_timeout(Some(patience))?;
        stream.write_all(b"GET /_ministack/health HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
        let mut status = [0; 12];
        stream.read_exact(&mut status)?;
        Ok(status.ends_with(b" 200"))
    };
    ask().unwrap_or(false)
}

fn address(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

fn port(workspace: &Workspace) -> Option<u16> {
    fs::read_to_string(port_file(workspace)).ok()?.trim().parse().ok()
}

fn port_file(workspace: &Workspace) -> std::path::PathBuf {
    workspace.local().join("engine/port")
}

fn daemon(workspace: &Workspace) -> Daemon {
    Daemon {
        pid_file: workspace.local().join("engine/pid"),
        marker: "ministack",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_engine_kept_follows_it_to_another_port() {
        let state = std::env::temp_dir().join(format!("jobs-engine-{}", std::process::id()));
        fs::create_dir_all(&state).unwrap();
        let file = state.join("sqs.json");
        fs::write(&file, r#"{"url": "http://127.0.0.1:4566/000000000000/yg-a"}"#).unwrap();

        follow(&state, 4566, 4567).unwrap();

        let kept = fs::read_to_string(&file).unwrap();
        fs::remove_dir_all(&state).unwrap();
        assert_eq!(kept, r#"{"url": "http://127.0.0.1:4567/000000000000/yg-a"}"#);
        follow(&state, 4566, 4567).unwrap();
    }
}
