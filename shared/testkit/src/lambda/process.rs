//! The operating system's side of an instance.

use std::env;
use std::fs::{self, OpenOptions};
use std::io;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

use super::{Function, Logs};

const KEPT: usize = 1 << 20;

/// Memory of one process, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Resident now.
    pub resident: u64,
    /// The most that ever was.
    pub peak: u64,
}

impl Memory {
    /// `None` when there is no such process, or no `/proc`.
    pub fn of(pid: u32) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let kibibytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        Some(Self {
            resident: kibibytes("VmRSS:")? * 1024,
            peak: kibibytes("VmHWM:")? * 1024,
        })
    }
}

/// Output of all processes of a function, in the order in which it came.
#[derive(Clone, Debug, Default)]
pub(super) struct Captured(Arc<Mutex<Vec<u8>>>);

impl Captured {
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    async fn collect(self, mut stream: impl AsyncRead + Unpin) {
        let mut chunk = vec![0; 8192];
        while let Ok(length @ 1..) = stream.read(&mut chunk).await {
            let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            kept.extend_from_slice(&chunk[..length]);
            if kept.len() > 2 * KEPT {
                let surplus = kept.len() - KEPT;
                kept.drain(..surplus);
            }
        }
    }
}

pub(super) fn spawn(function: &Function, runtime_api: SocketAddr, logs: &Captured) -> io::Result<Child> {
    let mut command = Command::new(&function.program);
    command.env_clear().kill_on_drop(true).stdin(Stdio::null());
    let inherited = ["PATH", "RUST_BACKTRACE", "RUST_LOG", "LLVM_PROFILE_FILE"];
    command.envs(inherited.iter().filter_map(|name| Some((name, env::var_os(name)?))));
    let name = &function.name;
    command.envs([
        ("AWS_LAMBDA_RUNTIME_API", runtime_api.to_string()),
        ("AWS_LAMBDA_FUNCTION_NAME", name.clone()),
        ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST".to_owned()),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", function.memory_mb.to_string()),
        ("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand".to_owned()),
        ("AWS_LAMBDA_LOG_GROUP_NAME", format!("/aws/lambda/{name}")),
        ("AWS_LAMBDA_LOG_STREAM_NAME", "local".to_owned()),
        ("AWS_REGION", "us-east-1".to_owned()),
        ("AWS_DEFAULT_REGION", "us-east-1".to_owned()),
        ("AWS_ACCESS_KEY_ID", "test".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "test".to_owned()),
        ("_HANDLER", "bootstrap".to_owned()),
        ("TZ", ":UTC".to_owned()),
    ]);
    command.envs(&function.environment);
    match &function.logs {
        Logs::Keep => command.stdout(Stdio::piped()).stderr(Stdio::piped()),
        Logs::Inherit => command.stdout(Stdio::inherit()).stderr(Stdio::inherit()),
        Logs::Discard => command.stdout(Stdio::null()).stderr(Stdio::null()),
        Logs::File(path) => {
            let file = OpenOptions::new().create(true).append(true).open(path)?;
            command.stdout(file.try_clone()?).stderr(file)
        }
    };
    let mut child = command.spawn()?;
    if let Some(stream) = child.stdout.take() {
        tokio::spawn(logs.clone().collect(stream));
    }
    if let Some(stream) = child.stderr.take() {
        tokio::spawn(logs.clone().collect(stream));
    }
    Ok(child)
}
