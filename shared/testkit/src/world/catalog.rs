//! What a job is given, from the file from which it is deployed.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use serde::Deserialize;

use super::binary;

/// A job as a [`World`](super::World) runs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Its function.
    pub program: PathBuf,
    /// How long one invocation may take.
    pub timeout: Duration,
    /// What the function is told of its memory.
    pub memory_mb: u32,
    /// Connections to the database that one instance may have.
    pub connections: u32,
    /// Messages in one event, at most.
    pub batch: usize,
    /// How long a message stays hidden that the function has been given.
    pub visibility: Duration,
    /// How often a message is given out before it is dead.
    pub max_receives: u32,
}

impl Job {
    /// A program that no catalog knows, with ordinary settings.
    pub fn new(program: PathBuf) -> Self {
        let (timeout, visibility) = (Duration::from_secs(30), Duration::from_secs(180));
        Self {
            program,
            timeout,
            memory_mb: 256,
            connections: 2,
            batch: 10,
            visibility,
            max_receives: 10,
        }
    }

    /// What `infra/catalog.json` says.
    ///
    /// # Panics
    ///
    /// When it does not say, or when the job is not [built](binary).
    pub fn of_catalog(name: &str) -> Self {
        static JOBS: LazyLock<HashMap<String, Entry>> = LazyLock::new(|| {
            let path = Path::new(crate::ROOT).join("infra/catalog.json");
            let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let catalog: Catalog =
                serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let functions = catalog.jobs.into_iter().chain(catalog.endpoints);
            functions.map(|entry| (entry.name.clone(), entry)).collect()
        });
        let Some(entry) = JOBS.get(name) else {
            panic!("no {name} in infra/catalog.json; if the job is new: cargo jobs catalog --json > infra/catalog.json")
        };
        let job = Self {
            timeout: Duration::from_secs(entry.timeout_seconds),
            memory_mb: entry.memory_mb,
            connections: entry.connections.unwrap_or(2),
            ..Self::new(binary(name))
        };
        match (&entry.batch, &entry.queue) {
            (Some(batch), Some(queue)) => Self {
                batch: batch.size,
                visibility: Duration::from_secs(queue.visibility_timeout_seconds),
                max_receives: queue.max_receive_count,
                ..job
            },
            _ => job,
        }
    }
}

#[derive(Deserialize)]
struct Catalog {
    jobs: Vec<Entry>,
    endpoints: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    name: String,
    #[serde(default)]
    batch: Option<Batch>,
    timeout_seconds: u64,
    memory_mb: u32,
    // An endpoint has neither of these.
    #[serde(default)]
    connections: Option<u32>,
    #[serde(default)]
    queue: Option<Queue>,
}

#[derive(Deserialize)]
struct Batch {
    size: usize,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Queue {
    visibility_timeout_seconds: u64,
    max_receive_count: u32,
}
