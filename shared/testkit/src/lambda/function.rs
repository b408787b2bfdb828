use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A function to start: a program and what Lambda would be told about it.
#[derive(Clone, Debug)]
pub struct Function {
    pub(super) program: PathBuf,
    pub(super) name: String,
    pub(super) environment: BTreeMap<String, String>,
    pub(super) instances: usize,
    pub(super) timeout: Duration,
    pub(super) memory_mb: u32,
    pub(super) logs: Logs,
}

/// What becomes of a function's standard output and error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Logs {
    /// Kept in memory, the latest mebibyte of it.
    #[default]
    Keep,
    /// To where our own go.
    Inherit,
    /// Appended to a file.
    File(PathBuf),
    /// Nowhere; the program finds `/dev/null`.
    Discard,
}

impl Function {
    /// One instance of a program, with 30 s and 256 MB, named like its file.
    pub fn new(program: impl AsRef<Path>) -> Self {
        let program = program.as_ref().to_owned();
        let name = program
            .file_name()
            .and_then(OsStr::to_str)
            .unwrap_or("function")
            .to_owned();
        let timeout = Duration::from_secs(30);
        let environment = BTreeMap::new();
        Self {
            program,
            name,
            environment,
            instances: 1,
            timeout,
            memory_mb: 256,
            logs: Logs::default(),
        }
    }

    /// Another name than the file's.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// Sets one variable. A function inherits nothing from us but `PATH` and what debugging needs.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.insert(name.to_owned(), value.into());
        self
    }

    /// Sets several variables.
    #[must_use]
    pub fn envs(mut self, variables: impl IntoIterator<Item = (String, String)>) -> Self {
        self.environment.extend(variables);
        self
    }

    /// How many processes work side by side.
    #[must_use]
    pub fn instances(mut self, instances: usize) -> Self {
        self.instances = instances.max(1);
        self
    }

    /// How long one invocation may take; sent as the deadline and enforced by `kill -9`.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// What the function is told of its memory; nothing limits it.
    #[must_use]
    pub fn memory_mb(mut self, memory_mb: u32) -> Self {
        self.memory_mb = memory_mb;
        self
    }

    /// Where its output goes.
    #[must_use]
    pub fn logs(mut self, logs: Logs) -> Self {
        self.logs = logs;
        self
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }
}
