//! One instance: a process at a time, and the Runtime API that is its alone.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::sync::{Notify, oneshot, watch};

use super::{Failure, Shared, process};
use crate::http::{self, Answer, Reply, Request, Service};

/// AWS gives a function ten seconds; a debug build on a busy machine may need more.
const INIT_LIMIT: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct Instance {
    state: Mutex<State>,
    kill: Notify,
    deaths: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    pid: Option<u32>,
    spawned: Instant,
    /// The process asked for an event.
    ready: bool,
    cold_starts: Vec<Duration>,
    current: Option<InFlight>,
    serial: u64,
    init_error: Option<String>,
    first: Option<oneshot::Sender<Result<(), Failure>>>,
}

#[derive(Debug)]
struct InFlight {
    id: String,
    answer: oneshot::Sender<Result<Bytes, Failure>>,
}

impl Instance {
    /// The receiver hears once: ready, or why not.
    pub(super) fn new() -> (Arc<Self>, oneshot::Receiver<Result<(), Failure>>) {
        let (first, heard) = oneshot::channel();
        let state = State {
            pid: None,
            spawned: Instant::now(),
            ready: false,
            cold_starts: Vec::new(),
            current: None,
            serial: 0,
            init_error: None,
            first: Some(first),
        };
        let instance = Self {
            state: Mutex::new(state),
            kill: Notify::new(),
            deaths: watch::Sender::new(0),
        };
        (Arc::new(instance), heard)
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.state().pid
    }

    pub(super) fn cold_starts(&self) -> Vec<Duration> {
        self.state().cold_starts.clone()
    }

    /// Returns when the process that lives now is dead.
    pub(super) async fn kill(&self) {
        let mut deaths = self.deaths.subscribe();
        if self.pid().is_some() {
            self.kill.notify_waiters();
            // Cannot fail: we hold the sender.
            let _ = deaths.changed().await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) async fn supervise(instance: Arc<Instance>, shared: Arc<Shared>) {
    let listener = match TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await {
        Ok(listener) => listener,
        Err(error) => return refuse(&instance, &shared, &format!("no port: {error}")).await,
    };
    loop {
        let End { by_us, reason } = live(&instance, &shared, &listener).await;
        let failed_to_start = {
            let mut state = instance.state();
            state.pid = None;
            if let Some(InFlight { answer, .. }) = state.current.take() {
                let _ = answer.send(Err(Failure::Exited(reason.clone())));
            }
            let reported = state.init_error.take();
            (!state.ready && !by_us).then(|| reported.unwrap_or(reason))
        };
        instance.deaths.send_modify(|deaths| *deaths += 1);
        if let Some(reason) = failed_to_start {
            refuse(&instance, &shared, &reason).await;
        }
    }
}

struct End {
    /// Through [`Instance::kill`].
    by_us: bool,
    reason: String,
}

impl End {
    fn new(by_us: bool, reason: impl ToString) -> Self {
        Self {
            by_us,
            reason: reason.to_string(),
        }
    }
}

/// One process from start to end.
async fn live(instance: &Arc<Instance>, shared: &Arc<Shared>, listener: &TcpListener) -> End {
    let address = match listener.local_addr() {
        Ok(address) => address,
        Err(error) => return End::new(false, error),
    };
    let killed = instance.kill.notified();
    let mut child = {
        let mut state = instance.state();
        state.spawned = Instant::now();
        state.ready = false;
        match process::spawn(&shared.function, address, &shared.logs) {
            Ok(child) => {
                state.pid = child.id();
                child
            }
            Err(error) => return End::new(false, format_args!("{}: {error}", shared.function.program.display())),
        }
    };
    let api = http::serve(
        listener,
        RuntimeApi {
            instance: instance.clone(),
            shared: shared.clone(),
        },
    );
    let stuck = async {
        tokio::time::sleep(INIT_LIMIT).await;
        if instance.state().ready {
            std::future::pending::<()>().await;
        }
    };
    let by_us = tokio::select! {
        () = api => false,
        () = stuck => false,
        () = killed => true,
        _ = child.wait() => false,
    };
    // No use if it is dead already, and no harm.
    let _ = child.start_kill();
    let status = child.wait().await;
    End::new(
        by_us,
        status.map_or_else(|error| error.to_string(), |status| status.to_string()),
    )
}

/// A function that cannot start fails whoever waits for that, or else one invocation, before it is tried again.
async fn refuse(instance: &Instance, shared: &Shared, reason: &str) {
    let failure = Failure::Init(reason.to_owned());
    let first = instance.state().first.take();
    if let Some(first) = first {
        let _ = first.send(Err(failure));
    } else if let Some(invocation) = shared.waiting.lock().await.recv().await {
        let _ = invocation.answer.send(Err(failure));
    }
}

#[derive(Clone)]
struct RuntimeApi {
    instance: Arc<Instance>,
    shared: Arc<Shared>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ErrorReport {
    error_type: String,
    error_message: String,
}

impl Service for RuntimeApi {
    async fn reply(&self, request: Request) -> Reply {
        let Some(action) = request.target().strip_prefix("/2018-06-01/runtime/") else {
            return Answer::error("404 Not Found", "NotFound", "no such operation").into();
        };
        match action
            .strip_prefix("invocation/")
            .map_or((action, ""), |rest| rest.split_once('/').unwrap_or((rest, "")))
        {
            ("next", "") => self.next().await.into(),
            (id, "response") => self.finish(id, Ok(request.body())),
            (id, "error") => {
                let ErrorReport {
                    error_type,
                    error_message,
                } = report(&request);
                self.finish(
                    id,
                    Err(Failure::Function {
                        kind: error_type,
                        message: error_message,
                    }),
                )
            }
            ("init/error", _) => {
                self.instance.state().init_error = Some(report(&request).error_message);
                accepted()
            }
            _ => Answer::error("404 Not Found", "NotFound", "no such operation").into(),
        }
    }
}

impl RuntimeApi {
    async fn next(&self) -> Answer {
        {
            let mut state = self.instance.state();
            if !state.ready {
                state.ready = true;
                let took = state.spawned.elapsed();
                state.cold_starts.push(took);
            }
            if let Some(first) = state.first.take() {
                let _ = first.send(Ok(()));
            }
        }
        let invocation = loop {
            match self.shared.waiting.lock().await.recv().await {
                // Its caller has gone.
                Some(invocation) if invocation.answer.is_closed() => {}
                Some(invocation) => break invocation,
                None => std::future::pending().await,
            }
        };
        let id = {
            let mut state = self.instance.state();
            state.serial += 1;
            let id = format!("{:08x}-0000-4000-8000-{:012x}", state.pid.unwrap_or(0), state.serial);
            let current = InFlight {
                id: id.clone(),
                answer: invocation.answer,
            };
            if let Some(unanswered) = state.current.replace(current) {
                let _ = unanswered
                    .answer
                    .send(Err(Failure::Exited("it asked for another event first".to_owned())));
            }
            id
        };
        let _ = invocation.started.send(self.instance.clone());
        let function = &self.shared.function;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Answer::json("200 OK", invocation.event)
            .header("lambda-runtime-aws-request-id", &id)
            .header("lambda-runtime-deadline-ms", (now + function.timeout).as_millis())
            .header(
                "lambda-runtime-invoked-function-arn",
                format_args!("arn:aws:lambda:us-east-1:000000000000:function:{}", function.name),
            )
            .header(
                "lambda-runtime-trace-id",
                format_args!(
                    "Root=1-{:08x}-{:024x};Parent=0000000000000001;Sampled=0",
                    now.as_secs(),
                    now.as_nanos()
                ),
            )
    }

    fn finish(&self, id: &str, answer: Result<Bytes, Failure>) -> Reply {
        let current = {
            let mut state = self.instance.state();
            state.current.take_if(|current| current.id == id)
        };
        match current {
            Some(current) => {
                let _ = current.answer.send(answer);
                accepted()
            }
            None => Answer::error(
                "400 Bad Request",
                "InvalidRequestID",
                "no such invocation is in progress",
            )
            .into(),
        }
    }
}

fn report(request: &Request) -> ErrorReport {
    serde_json::from_slice(&request.body()).unwrap_or_default()
}

fn accepted() -> Reply {
    Answer::json("202 Accepted", Bytes::from_static(br#"{"status":"OK"}"#)).into()
}
