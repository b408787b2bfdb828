use std::cell::RefCell;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jobs::{Job, Message, Spec, Use};
use lambda_runtime::{LambdaEvent, Runtime, service_fn};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use services::mail::{Mailer, Settings};
use services::{Aws, Database, Error, Queues, Storage};
use tokio::time::{Instant, timeout_at};

use crate::batch::{ANSWER_WITHIN, Batch, Fate};
use crate::context::{Context, Delivery, Run, World};
use crate::event::{Intake, Record};
use crate::handler::{self, Handler};
use crate::outcome::{Failure, Outcome};
use crate::telemetry;

/// Serves a job whose handler takes one message at a time. Returns only when the function cannot start.
pub fn serve<M: Message>(job: Job<M>, handler: impl AsyncFn(M, &mut Run) -> Outcome + 'static) -> ExitCode {
    start(*job.spec(), handler::single(handler))
}

/// Serves a job whose handler takes a whole batch, and answers with an outcome for each delivery, in order; or with one failure for
/// all of them.
pub fn serve_batch<M: Message>(
    job: Job<M>,
    handler: impl AsyncFn(&[Delivery<M>], &Context) -> Result<Vec<Outcome>, Failure> + 'static,
) -> ExitCode {
    start(*job.spec(), handler::batch(handler))
}

/// Ends a function that lacks what it needs to start: the log says so, and Lambda tries again with every invocation.
pub fn refuse(spec: &Spec, error: &str) -> ExitCode {
    telemetry::init();
    fail(spec.name(), error)
}

fn start(spec: Spec, handler: Handler) -> ExitCode {
    let spec: &'static Spec = Box::leak(Box::new(spec));
    process(spec.name(), run(spec, handler))
}

/// The life of a function's process.
pub(crate) fn process(function: &str, run: impl Future<Output = Result<(), String>>) -> ExitCode {
    telemetry::init();
    if std::env::var_os("AWS_LAMBDA_RUNTIME_API").is_none() {
        eprintln!("{function} is a Lambda function. `cargo jobs up` runs it on this machine.");
        return ExitCode::from(2);
    }
    // One thread: a function of this size has less than one CPU, and waits most of the time.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(function, &error.to_string()),
    };
    match runtime.block_on(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(function, &error),
    }
}

fn fail(function: &str, error: &str) -> ExitCode {
    tracing::error!(job = function, error, "the function could not start");
    ExitCode::FAILURE
}

async fn run(spec: &'static Spec, handler: Handler) -> Result<(), String> {
    let world = Rc::new(world(spec).map_err(|error| error.chain())?);
    let handler = Rc::new(handler);
    let service = service_fn(move |event: LambdaEvent<Box<RawValue>>| {
        let (world, handler) = (world.clone(), handler.clone());
        Box::pin(async move { invoke(spec, &handler, world, event).await })
    });
    Runtime::new(service).run().await.map_err(|error| error.to_string())
}

fn world(spec: &Spec) -> Result<World, Error> {
    let aws = Aws::from_env()?;
    let mailer = match spec.uses.contains(&Use::Mail) {
        true => Some(Mailer::new(&aws, Settings::from_env()?)?),
        false => None,
    };
    let uses_storage = spec.uses.contains(&Use::Storage) || spec.uses.contains(&Use::StorageDeletion);
    let storage = match uses_storage {
        true => Some(Storage::from_env(&aws)?),
        false => None,
    };
    Ok(World {
        database: Database::from_env(&aws)?,
        queues: queues(&aws)?,
        mailer,
        storage,
    })
}

/// The queues of this deployment.
pub(crate) fn queues(aws: &Aws) -> Result<Queues, Error> {
    let prefix =
        std::env::var("QUEUE_URL_PREFIX").map_err(|_| Error::permanent("the environment has no QUEUE_URL_PREFIX"))?;
    Ok(Queues::new(aws, prefix))
}

async fn invoke(
    spec: &'static Spec,
    handler: &Handler,
    world: Rc<World>,
    event: LambdaEvent<Box<RawValue>>,
) -> Result<Value, lambda_runtime::Error> {
    let context = Context {
        world,
        deadline: deadline(event.context.deadline),
        departures: Rc::new(RefCell::default()),
    };
    let token = format!("{:032x}", rand::random::<u128>());
    let batch = Batch {
        spec,
        handler,
        context,
        token: token.into(),
    };
    match Intake::read(&event.payload, &event.context.request_id)? {
        Intake::Batch(records) => Ok(answer(&batch, records).await),
        Intake::Single(record) => match batch.process(vec![*record]).await.pop() {
            Some(Fate::Acknowledge) => Ok(json!({"settled": true})),
            // An asynchronous invocation is repeated by Lambda, and the ledger goes on counting.
            _ => Err("the run is not settled; invoke it again".into()),
        },
    }
}

/// Reports failures only, after hiding those that have to wait.
async fn answer(batch: &Batch<'_>, records: Vec<Record>) -> Value {
    let handles: Vec<_> = records
        .iter()
        .map(|record| (record.message_id.clone(), record.receipt.clone()))
        .collect();
    let fates = batch.process(records).await;
    let (mut failures, mut waits) = (Vec::new(), Vec::new());
    for ((message_id, receipt), fate) in handles.into_iter().zip(fates) {
        if let Fate::Return(wait) = fate {
            failures.push(json!({"itemIdentifier": message_id}));
            waits.extend(receipt.zip(wait));
        }
    }
    let hiding = batch.context.queues().hide(batch.spec.name(), &waits);
    let hidden = timeout_at(batch.context.deadline - ANSWER_WITHIN, hiding).await;
    if let Err(error) = hidden.unwrap_or_else(|_| Err(Error::transient("no time was left"))) {
        tracing::warn!(
            job = batch.spec.name(),
            error = error.chain(),
            "records come back at the end of their visibility timeout"
        );
    }
    json!({"batchItemFailures": failures})
}

/// The runtime API gives the deadline by the wall clock; from here on it is a point of the monotonic one.
pub(crate) fn deadline(unix_ms: u64) -> Instant {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Instant::now() + Duration::from_millis(unix_ms).saturating_sub(now)
}
