//! Drives a built function through the real Lambda Runtime API.
//!
//! What AWS does around a function is done here: processes that start, wait for events, die and start again;
//! headers, deadline and environment; errors, exits and time-outs told apart. The function cannot tell the
//! difference, so it has no code for tests.

mod function;
mod instance;
mod process;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
pub use function::{Function, Logs};
use futures::future::join_all;
use instance::Instance;
pub use process::Memory;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::{Mutex, mpsc, oneshot};

use crate::http::Background;

/// A function that is up: as many processes as it was given instances. They end when it is dropped.
#[derive(Clone, Debug)]
pub struct Lambda {
    shared: Arc<Shared>,
    instances: Arc<[Arc<Instance>]>,
    _supervisors: Arc<[Background]>,
}

/// Why an invocation brought no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The function reported an error.
    #[error("function error {kind}: {message}")]
    Function {
        /// `errorType`.
        kind: String,
        /// `errorMessage`.
        message: String,
    },
    /// The process ended in the middle, e.g. "signal: 9 (SIGKILL)".
    #[error("the process exited: {0}")]
    Exited(String),
    /// The process had not answered by the deadline and was killed.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// The process ended, or reported an error, before it asked for its first event.
    #[error("the function did not start: {0}")]
    Init(String),
}

#[derive(Debug)]
struct Shared {
    function: Function,
    waiting: Mutex<mpsc::UnboundedReceiver<Invocation>>,
    invocations: mpsc::UnboundedSender<Invocation>,
    logs: process::Captured,
}

#[derive(Debug)]
struct Invocation {
    event: Bytes,
    started: oneshot::Sender<Arc<Instance>>,
    answer: oneshot::Sender<Result<Bytes, Failure>>,
}

impl Lambda {
    /// Starts every instance and waits until each has asked for its first event.
    ///
    /// # Errors
    ///
    /// [`Failure::Init`] when one cannot.
    pub async fn start(function: Function) -> Result<Self, Failure> {
        let (invocations, waiting) = mpsc::unbounded_channel();
        let logs = process::Captured::default();
        let shared = Arc::new(Shared {
            function,
            waiting: Mutex::new(waiting),
            invocations,
            logs,
        });
        let mut instances = Vec::new();
        let mut supervisors = Vec::new();
        let mut ready = Vec::new();
        for _ in 0..shared.function.instances {
            let (instance, first) = Instance::new();
            supervisors.push(Background::spawn(instance::supervise(instance.clone(), shared.clone())));
            instances.push(instance);
            ready.push(first);
        }
        let started = Self {
            shared,
            instances: instances.into(),
            _supervisors: supervisors.into(),
        };
        for first in join_all(ready).await {
            first.unwrap_or_else(|_| Err(Failure::Init("its supervisor ended".to_owned())))?;
        }
        Ok(started)
    }

    /// Hands one event to the next free instance and waits for the answer.
    ///
    /// # Errors
    ///
    /// See [`Failure`]. The instance is started again after each of them but `Function`.
    pub async fn invoke(&self, event: &impl Serialize) -> Result<Value, Failure> {
        let malformed = |error: serde_json::Error| Failure::Function {
            kind: "Json".to_owned(),
            message: error.to_string(),
        };
        let answer = self.invoke_bytes(serde_json::to_vec(event).map_err(malformed)?).await?;
        serde_json::from_slice(&answer).map_err(malformed)
    }

    /// As [`invoke`](Self::invoke), with the bytes as they travel.
    ///
    /// # Errors
    ///
    /// As [`invoke`](Self::invoke).
    pub async fn invoke_bytes(&self, event: impl Into<Bytes>) -> Result<Bytes, Failure> {
        let (started, instance) = oneshot::channel();
        let (answer, answered) = oneshot::channel();
        let lost = || Failure::Exited("its supervisor ended".to_owned());
        let invocation = Invocation {
            event: event.into(),
            started,
            answer,
        };
        self.shared.invocations.send(invocation).map_err(|_| lost())?;
        let Ok(instance) = instance.await else {
            // Nobody could take it; the reason is the answer.
            return answered.await.unwrap_or_else(|_| Err(lost()));
        };
        let limit = self.shared.function.timeout;
        match tokio::time::timeout(limit, answered).await {
            Ok(answer) => answer.unwrap_or_else(|_| Err(lost())),
            Err(_) => {
                instance.kill().await;
                Err(Failure::TimedOut(limit))
            }
        }
    }

    /// `kill -9` for every instance; returns when they are dead. They start again by themselves.
    pub async fn kill(&self) {
        join_all(self.instances.iter().map(|instance| instance.kill())).await;
    }

    /// What the function was started with.
    pub fn function(&self) -> &Function {
        &self.shared.function
    }

    /// From the start of a process to its first request for an event, once for every process so far.
    pub fn cold_starts(&self) -> Vec<Duration> {
        self.instances
            .iter()
            .flat_map(|instance| instance.cold_starts())
            .collect()
    }

    /// The memory of every process that is alive.
    pub fn memory(&self) -> Vec<Memory> {
        self.instances
            .iter()
            .filter_map(|instance| Memory::of(instance.pid()?))
            .collect()
    }

    /// The processes that are alive.
    pub fn pids(&self) -> Vec<u32> {
        self.instances.iter().filter_map(|instance| instance.pid()).collect()
    }

    /// What the processes printed, with [`Logs::Keep`].
    pub fn logs(&self) -> String {
        self.shared.logs.text()
    }
}
