//! Other people's programs: run to the end with a log, or started for good with a pid file.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::Command;

use crate::progress::Step;

/// Lines of a log that an error message repeats.
const TAIL: usize = 20;

/// Runs `command` to its end, its output in `log` and its latest line beside the spinner.
///
/// # Errors
/// Names `what` failed and repeats the end of its output.
pub(crate) async fn run(step: &Step, what: &str, command: &mut Command, log: &Path) -> Result<()> {
    let mut file = create(log)?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("could not start {what} ({})", name(command)))?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let mut other = file.try_clone()?;
    let (out, err, status) = tokio::join!(
        follow(out, step, &mut file),
        follow(err, step, &mut other),
        child.wait()
    );
    let status = out
        .and(err)
        .map_err(anyhow::Error::from)
        .and(status.map_err(Into::into))?;
    if !status.success() {
        bail!("{what} failed ({status}); the end of {}:\n{}", log.display(), tail(log));
    }
    Ok(())
}

/// What `command` prints, without the blanks around it; nothing when it cannot be run or fails.
pub(crate) async fn output(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await.ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

async fn follow(stream: Option<impl AsyncRead + Unpin>, step: &Step, log: &mut File) -> std::io::Result<()> {
    let Some(stream) = stream else { return Ok(()) };
    let mut lines = BufReader::new(stream).split(b'\n');
    while let Some(line) = lines.next_segment().await? {
        let line = String::from_utf8_lossy(&line);
        writeln!(log, "{line}")?;
        if !line.trim().is_empty() {
            step.note(line.trim());
        }
    }
    Ok(())
}

/// The program's file name, for messages.
fn name(command: &Command) -> String {
    Path::new(command.as_std().get_program()).display().to_string()
}

/// An empty log, its folder made if need be.
pub(crate) fn create(log: &Path) -> Result<File> {
    if let Some(folder) = log.parent() {
        fs::create_dir_all(folder).with_context(|| format!("could not make {}", folder.display()))?;
    }
    // Appending, so that two writers of one log never overwrite each other.
    fs::write(log, "").with_context(|| format!("could not write {}", log.display()))?;
    Ok(OpenOptions::new().append(true).open(log)?)
}

/// The last lines of a log, indented.
pub(crate) fn tail(log: &Path) -> String {
    let text = fs::read(log)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default();
    let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = lines[lines.len().saturating_sub(TAIL)..]
        .iter()
        .map(|line| format!("  {line}"));
    last.collect::<Vec<_>>().join("\n")
}

/// A program that outlives the CLI, known by its pid file.
pub(crate) struct Daemon {
    pub(crate) pid_file: PathBuf,
    /// Part of its command line: a pid alone may have been given to someone else since.
    pub(crate) marker: &'static str,
}

impl Daemon {
    /// Starts `command` in a process group of its own, where neither Ctrl-C nor the closing terminal reaches it.
    pub(crate) fn start(&self, command: &mut std::process::Command, log: &Path) -> Result<()> {
        use std::os::unix::process::CommandExt;
        let file = create(log)?;
        let child = command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("could not start {}", self.marker))?;
        fs::write(&self.pid_file, child.id().to_string())?;
        Ok(())
    }

    pub(crate) async fn pid(&self) -> Option<u32> {
        let pid = fs::read_to_string(&self.pid_file).ok()?.trim().parse().ok()?;
        let mut ps = Command::new("ps");
        ps.args(["-o", "command=", "-p", &format!("{pid}")]);
        output(&mut ps)
            .await
            .is_some_and(|command| command.contains(self.marker))
            .then_some(pid)
    }

    /// Asks it to end, insists after ten seconds. True if it ran.
    pub(crate) async fn stop(&self) -> Result<bool> {
        let Some(pid) = self.pid().await else { return Ok(false) };
        signal(pid, "-TERM").await;
        let gone = async || self.pid().await.is_none();
        if wait_until(Duration::from_secs(10), gone).await.is_err() {
            signal(pid, "-KILL").await;
            wait_until(Duration::from_secs(5), gone)
                .await
                .with_context(|| format!("{} (pid {pid}) could not be ended", self.marker))?;
        }
        fs::remove_file(&self.pid_file)?;
        Ok(true)
    }
}

async fn signal(pid: u32, signal: &str) {
    // Fails only when the process is gone, which is what was asked for.
    let _ = Command::new("kill")
        .args([signal, &pid.to_string()])
        .stderr(Stdio::null())
        .status()
        .await;
}

/// Asks again and again until `ready`.
///
/// # Errors
/// After `patience`.
pub(crate) async fn wait_until(patience: Duration, mut ready: impl AsyncFnMut() -> bool) -> Result<()> {
    let start = Instant::now();
    while !ready().await {
        if start.elapsed() > patience {
            bail!("no answer within {} seconds", patience.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// The preferred loopback port, or any free one when someone else has it.
pub(crate) fn free_port(preferred: u16) -> Result<u16> {
    let listen = |port| std::net::TcpListener::bind(("127.0.0.1", port));
    let listener = listen(preferred)
        .or_else(|_| listen(0))
        .context("could not find a free port on 127.0.0.1")?;
    Ok(listener.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_avoided() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        assert_ne!(free_port(port).unwrap(), port);
    }

    #[test]
    fn the_tail_is_the_end_without_empty_lines() {
        let log = std::env::temp_dir().join(format!("jobs-tail-{}", std::process::id()));
        let text: String = (1..=30).map(|number| format!("{number}\n\n")).collect();
        fs::write(&log, text).unwrap();
        let tail = tail(&log);
        fs::remove_file(&log).unwrap();
        assert!(tail.starts_with("  11\n") && tail.ends_with("  30"), "{tail}");
    }
}
