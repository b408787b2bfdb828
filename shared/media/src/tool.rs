use std::ffi::OsStr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{
    DumpableBehavior, Pid, Resource, Rlimit, Signal, kill_process_group, prlimit, set_dumpable_behavior,
};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::time::timeout;

use crate::error::{Error, Fault};

/// A tool that says more is not answering what it was asked.
const STDOUT: usize = 8 << 20;
/// What is kept of a tool's complaints: their end.
const STDERR: usize = 64 << 10;
/// What is told of them.
const DETAIL: usize = 300;
/// Of a tool's CPU time, for each second of its wall time: it has this many threads.
const THREADS: u64 = 2;
const OPEN_FILES: u64 = 64;

/// Where the tools are, and how much memory each may have.
#[derive(Clone, Debug)]
pub struct Tools {
    pub(crate) ffmpeg: PathBuf,
    pub(crate) ffprobe: PathBuf,
    memory: Option<u64>,
}

/// What a tool has answered.
#[derive(Debug)]
pub(crate) struct Output {
    pub stdout: Vec<u8>,
    /// Whether a picture was too large for a decoder, or for the memory: it goes on then, without it.
    pub is_too_large: bool,
}

/// What one call of a tool may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// By the clock.
    pub time: Duration,
    /// Of any file that it writes, in bytes.
    pub file: u64,
}

impl Limits {
    pub(crate) const fn new(time: Duration) -> Self {
        Self { time, file: 64 << 20 }
    }
}

impl Tools {
    /// From `FFMPEG_BIN` and `FFPROBE_BIN`; three quarters of the function's memory are for a tool. From now on no child can read
    /// this process's environment.
    ///
    /// # Errors
    /// With what is missing.
    pub fn from_env() -> Result<Self, String> {
        let tool = |name: &str| {
            let path = std::env::var_os(name).filter(|path| !path.is_empty());
            let path = path
                .map(PathBuf::from)
                .ok_or_else(|| format!("the environment has no {name}"))?;
            if path.is_file() {
                Ok(path)
            } else {
                Err(format!("{name} names no file: {}", path.display()))
            }
        };
        let tools = Self {
            ffmpeg: tool("FFMPEG_BIN")?,
            ffprobe: tool("FFPROBE_BIN")?,
            memory: std::env::var("AWS_LAMBDA_FUNCTION_MEMORY_SIZE")
                .ok()
                .and_then(|mb| mb.parse::<u64>().ok())
                .map(|mb| (mb * 3 / 4) << 20),
        };
        set_dumpable_behavior(DumpableBehavior::NotDumpable)
            .map_err(|error| format!("this process cannot hide its environment: {error}"))?;
        Ok(tools)
    }

    /// Runs a tool in `folder` to its end.
    pub(crate) async fn run(
        &self,
        program: &Path,
        arguments: &[impl AsRef<OsStr>],
        folder: &Path,
        limits: Limits,
    ) -> Result<Output, Error> {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .envs(
                ["PATH", "LD_LIBRARY_PATH"]
                    .into_iter()
                    .filter_map(|name| Some((name, std::env::var_os(name)?))),
            )
            .env("HOME", folder)
            .env("LANG", "C.UTF-8")
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let unusable = |error: std::io::Error| Error::machine("a tool did not start", &error);
        let mut child = command.spawn().map_err(unusable)?;
        let group = Group(child.id().and_then(|id| Pid::from_raw(id.cast_signed())));
        group.limit(self.memory, limits).map_err(unusable)?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let work = async {
            let (stdout, stderr) = tokio::join!(head(stdout), tail(stderr));
            (stdout, stderr, child.wait().await)
        };
        let Ok((stdout, stderr, status)) = timeout(limits.time, work).await else {
            drop(group);
            // So that it is no zombie either.
            let _ = child.wait().await;
            return Err(Error::file(
                Fault::ToolTimeout,
                format!("a tool was stopped after {} s", limits.time.as_secs()),
            ));
        };
        let status = status.map_err(|error| Error::machine("a tool was lost", &error))?;
        let said = String::from_utf8_lossy(&stderr);
        // In FFmpeg's words; the others are what a limit of memory makes of a picture.
        let signs = ["Picture size ", "get_buffer() failed", "Cannot allocate memory"];
        let is_too_large = signs.iter().any(|sign| said.contains(sign));
        if !status.success() {
            return Err(match is_too_large {
                true => Error::file(Fault::ImageTooLarge, "its pictures have too many pixels"),
                false => complaint(status, &legible(&said, folder)),
            });
        }
        match stdout {
            Some(stdout) => Ok(Output { stdout, is_too_large }),
            None => Err(Error::file(Fault::CorruptMedia, "a tool would not stop talking")),
        }
    }
}

/// A process group, which ends when it is dropped.
struct Group(Option<Pid>);

impl Group {
    /// From outside and at once. The child may have begun: what it has taken stays, and the limits hold from here on.
    fn limit(&self, memory: Option<u64>, limits: Limits) -> std::io::Result<()> {
        let limits = [
            (Resource::Cpu, Some(limits.time.as_secs() * THREADS + 1)),
            (Resource::Fsize, Some(limits.file)),
            (Resource::Nofile, Some(OPEN_FILES)),
            (Resource::Core, Some(0)),
            (Resource::As, memory),
        ];
        for (resource, most) in limits {
            let limit = Rlimit {
                current: most,
                maximum: most,
            };
            match prlimit(self.0, resource, limit) {
                // It has ended already.
                Err(rustix::io::Errno::SRCH) => return Ok(()),
                result => result.map(drop)?,
            }
        }
        Ok(())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // Mostly there is nobody left.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// All of it; `None` when that is too much, and then the rest is read and forgotten.
async fn head(from: Option<impl AsyncRead + Unpin>) -> Option<Vec<u8>> {
    let mut from = from?;
    let mut bytes = Vec::new();
    (&mut from).take(STDOUT as u64 + 1).read_to_end(&mut bytes).await.ok()?;
    if bytes.len() <= STDOUT {
        return Some(bytes);
    }
    let _ = tokio::io::copy(&mut from, &mut tokio::io::sink()).await;
    None
}

/// Its end.
async fn tail(from: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut kept = Vec::new();
    let Some(mut from) = from else { return kept };
    let mut part = vec![0; 8192];
    while let Ok(read @ 1..) = from.read(&mut part).await {
        kept.extend_from_slice(&part[..read]);
        if kept.len() > 2 * STDERR {
            kept.drain(..kept.len() - STDERR);
        }
    }
    kept
}

/// What a tool's end means.
fn complaint(status: ExitStatus, said: &str) -> Error {
    if said.contains("No space left on device") {
        return Error::Machine("there is no space left to work in".into());
    }
    let signal = status.signal().and_then(Signal::from_named_raw);
    match signal {
        // Its time is over, or the machine's memory.
        Some(Signal::XCPU | Signal::KILL) => Error::file(Fault::ToolTimeout, "a tool took more than it may have"),
        Some(Signal::XFSZ) => Error::file(Fault::BadOutput, "a tool wrote more than it may"),
        Some(_) => Error::file(Fault::CorruptMedia, format!("a tool crashed: {status}")),
        None if said.contains("File too large") => Error::file(Fault::BadOutput, "a tool wrote more than it may"),
        None if said.is_empty() => Error::file(Fault::CorruptMedia, format!("a tool failed: {status}")),
        None => Error::file(Fault::CorruptMedia, said),
    }
}

/// The last of what was said, in one line, without the folder.
fn legible(said: &str, folder: &Path) -> String {
    let said = said.replace(&*folder.to_string_lossy(), "");
    let words: Vec<&str> = said.split_whitespace().collect();
    let line: String = words.join(" ").chars().filter(|c| !c.is_control()).collect();
    let skipped = line.chars().count().saturating_sub(DETAIL);
    line.chars().skip(skipped).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::process::{PidfdFlags, pidfd_open};

    use super::*;
    use crate::Workspace;

    fn tools() -> Tools {
        Tools {
            ffmpeg: "/bin/sh".into(),
            ffprobe: "/bin/sh".into(),
            memory: Some(512 << 20),
        }
    }

    async fn shell(script: &str, limits: Limits) -> (Workspace, Result<String, Error>) {
        let workspace = Workspace::new().unwrap();
        let tools = tools();
        let output = tools
            .run(&tools.ffmpeg, &["-c", script], workspace.path(), limits)
            .await;
        (
            workspace,
            output.map(|output| String::from_utf8(output.stdout).unwrap()),
        )
    }

    fn fault(result: Result<String, Error>) -> Fault {
        match result {
            Err(Error::File { fault, .. }) => fault,
            other => panic!("{other:?}"),
        }
    }

    /// Waits for the end of a process, for a while.
    fn has_ended(pid: &str) -> bool {
        let pid = pid.trim().parse().ok().and_then(Pid::from_raw).expect("a process");
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(process) => {
                let patience = Timespec { tv_sec: 10, tv_nsec: 0 };
                poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&patience)).is_ok_and(|ended| ended == 1)
            }
            Err(error) => error == rustix::io::Errno::SRCH,
        }
    }

    const MINUTE: Limits = Limits::new(Duration::from_secs(60));

    #[tokio::test]
    async fn a_tool_gets_four_variables_and_no_credentials() {
        let (workspace, output) = shell("env", MINUTE).await;
        let output = output.unwrap();
        let mut names: Vec<_> = output
            .lines()
            .filter_map(|line| Some(line.split_once('=')?.0))
            .collect();
        // The shell's own.
        names.retain(|name| !["PWD", "SHLVL", "_", "OLDPWD"].contains(name));
        names.sort_unstable();
        assert_eq!(
            names,
            match std::env::var_os("LD_LIBRARY_PATH") {
                Some(_) => vec!["HOME", "LANG", "LD_LIBRARY_PATH", "PATH"],
                None => vec!["HOME", "LANG", "PATH"],
            }
        );
        assert!(output.contains(&format!("HOME={}", workspace.path().display())));
    }

    #[tokio::test]
    async fn a_tool_that_hangs_is_killed_with_its_children() {
        let begun = Instant::now();
        let (workspace, output) = shell(
            "sleep 1000 & echo $! > child; sleep 1000",
            Limits::new(Duration::from_secs(1)),
        )
        .await;
        assert_eq!(fault(output), Fault::ToolTimeout);
        assert!(begun.elapsed() < Duration::from_secs(30));
        let child = std::fs::read_to_string(workspace.file("child")).unwrap();
        assert!(has_ended(&child));
    }

    #[tokio::test]
    async fn a_tool_ends_with_the_future_that_waits_for_it() {
        let workspace = Workspace::new().unwrap();
        let tools = tools();
        let script = ["-c", "echo $$ > child; sleep 1000"];
        let run = tools.run(&tools.ffmpeg, &script, workspace.path(), MINUTE);
        let child = workspace.file("child");
        let written = async {
            while !std::fs::read_to_string(&child).is_ok_and(|pid| pid.ends_with('\n')) {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            _ = run => panic!("it ended"),
            () = written => {}
        }
        let pid = std::fs::read_to_string(&child).unwrap();
        assert!(has_ended(&pid));
    }

    #[tokio::test]
    async fn a_tool_is_bounded() {
        // The limit of memory is the last one that is set.
        let limited = async |script| {
            shell(
                &format!("while [ $(ulimit -v) = unlimited ]; do :; done; {script}"),
                MINUTE,
            )
            .await
        };
        let (_w, memory) = limited("ulimit -v; ulimit -c; ulimit -n; ulimit -t").await;
        assert_eq!(memory.unwrap(), format!("{}\n0\n64\n121\n", 512 << 10));
        let (_w, file) = limited("trap '' XFSZ; head -c 70000000 /dev/zero > x").await;
        assert_eq!(fault(file), Fault::BadOutput);
        let (_w, endless) = limited("head -c 9000000 /dev/zero").await;
        assert_eq!(fault(endless), Fault::CorruptMedia);
    }

    #[tokio::test]
    async fn a_complaint_is_short_and_names_no_folder() {
        let (workspace, output) = shell(
            "i=0; while [ $i -lt 9000 ]; do echo noise $i >&2; i=$((i+1)); done; echo \"$PWD/in.mp4: bad\" >&2; exit 1",
            MINUTE,
        )
        .await;
        let Err(Error::File {
            fault: Fault::CorruptMedia,
            detail,
        }) = output
        else {
            panic!("{output:?}")
        };
        assert!(detail.ends_with("/in.mp4: bad"), "{detail}");
        assert!(detail.chars().count() <= DETAIL);
        assert!(!detail.contains(&*workspace.path().to_string_lossy()));
    }

    #[tokio::test]
    async fn a_full_disk_is_not_the_files_fault() {
        let (_w, output) = shell("echo 'out.mp4: No space left on device' >&2; exit 1", MINUTE).await;
        assert!(matches!(output, Err(Error::Machine(_))), "{output:?}");
    }
}
