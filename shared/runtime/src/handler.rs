//! Handlers without their types: what crosses into the non-generic core is boxed, so that a function crate compiles little more
//! than its own code.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;

use futures::FutureExt;
use futures::future::{LocalBoxFuture, join_all};
use jobs::{Message, Timestamp, Undecodable, decode};
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use crate::context::{Context, Delivery, Run};
use crate::outcome::{Failure, Outcome};
use crate::telemetry;

/// A decoded message without its type.
pub(crate) struct Prepared {
    pub message: Box<dyn Any>,
    pub as_of: Option<Timestamp>,
}

/// A handler without its types.
pub(crate) struct Handler {
    pub prepare: fn(Value) -> Result<Prepared, Undecodable>,
    pub handle: Handle,
}

/// Takes the records of a group, gives an outcome for each, in order, before the given instant.
type Handle = Box<dyn Fn(Vec<(Prepared, Run)>, Context, Instant) -> LocalBoxFuture<'static, Vec<Outcome>>>;

fn prepare<M: Message>(body: Value) -> Result<Prepared, Undecodable> {
    let message: M = decode(body)?;
    Ok(Prepared {
        as_of: message.as_of(),
        message: Box::new(message),
    })
}

fn typed<M: 'static>(prepared: Prepared) -> M {
    *prepared
        .message
        .downcast()
        .unwrap_or_else(|_| unreachable!("`prepare` of the same job made it"))
}

/// One message at a time; the records of a group run concurrently.
pub(crate) fn single<M: Message, H>(handler: H) -> Handler
where
    H: AsyncFn(M, &mut Run) -> Outcome + 'static,
{
    let handler = Rc::new(handler);
    let handle = move |group: Vec<(Prepared, Run)>, _: Context, stop: Instant| {
        let handler = handler.clone();
        let each = group.into_iter().map(move |(prepared, mut run)| {
            let handler = handler.clone();
            async move {
                let work = AssertUnwindSafe(async { handler(typed(prepared), &mut run).await }).catch_unwind();
                let outcome = match timeout_at(stop, work).await {
                    Ok(result) => result.unwrap_or_else(|panic| Err(panicked(panic.as_ref()))),
                    Err(_) => Err(out_of_time()),
                };
                run.release().await;
                outcome
            }
        });
        join_all(each).boxed_local()
    };
    Handler {
        prepare: prepare::<M>,
        handle: Box::new(handle),
    }
}

/// A group at once. Outcomes are in the order of the deliveries. When the group panics, or fails for good, every record runs again,
/// alone, so that only the culprit suffers for it.
pub(crate) fn batch<M: Message, H>(handler: H) -> Handler
where
    H: AsyncFn(&[Delivery<M>], &Context) -> Result<Vec<Outcome>, Failure> + 'static,
{
    let handler = Rc::new(handler);
    let handle = move |group: Vec<(Prepared, Run)>, context: Context, stop: Instant| {
        let handler = handler.clone();
        async move {
            let deliver = |(prepared, run)| Delivery {
                message: typed::<M>(prepared),
                run,
            };
            let deliveries: Vec<_> = group.into_iter().map(deliver).collect();
            let outcomes = match guarded(&*handler, &deliveries, &context, stop).await {
                Ok(outcomes) => outcomes,
                Err(Unsettled::Culprit(_)) if deliveries.len() > 1 => {
                    let mut outcomes = Vec::with_capacity(deliveries.len());
                    for alone in deliveries.chunks(1) {
                        let outcome = guarded(&*handler, alone, &context, stop).await;
                        outcomes.extend(outcome.unwrap_or_else(|unsettled| vec![Err(unsettled.into())]));
                    }
                    outcomes
                }
                Err(unsettled) => {
                    let failure = Failure::from(unsettled);
                    deliveries.iter().map(|_| Err(failure.clone())).collect()
                }
            };
            for delivery in &deliveries {
                delivery.run.release().await;
            }
            outcomes
        }
        .boxed_local()
    };
    Handler {
        prepare: prepare::<M>,
        handle: Box::new(handle),
    }
}

/// Why a group got no outcomes.
enum Unsettled {
    /// One of its records may be to blame: it panicked, or can never work.
    Culprit(Failure),
    /// All of them share it: no time, no database.
    Shared(Failure),
}

impl From<Unsettled> for Failure {
    fn from(unsettled: Unsettled) -> Self {
        match unsettled {
            Unsettled::Culprit(failure) | Unsettled::Shared(failure) => failure,
        }
    }
}

async fn guarded<M, H>(
    handler: &H,
    deliveries: &[Delivery<M>],
    context: &Context,
    stop: Instant,
) -> Result<Vec<Outcome>, Unsettled>
where
    H: AsyncFn(&[Delivery<M>], &Context) -> Result<Vec<Outcome>, Failure>,
{
    let work = AssertUnwindSafe(async { handler(deliveries, context).await }).catch_unwind();
    let Ok(result) = timeout_at(stop, work).await else {
        return Err(Unsettled::Shared(out_of_time()));
    };
    let outcomes = result.map_err(|panic| Unsettled::Culprit(panicked(panic.as_ref())))?;
    match outcomes {
        Ok(outcomes) if outcomes.len() == deliveries.len() => Ok(outcomes),
        Ok(outcomes) => {
            let error = format!(
                "the handler gave {} outcomes for {} messages",
                outcomes.len(),
                deliveries.len()
            );
            Err(Unsettled::Shared(Failure::Retry { error, after: None }))
        }
        Err(failure @ Failure::Dead { .. }) => Err(Unsettled::Culprit(failure)),
        Err(failure) => Err(Unsettled::Shared(failure)),
    }
}

/// A handler that panicked or ran out of time used its attempt.
fn panicked(payload: &(dyn Any + Send)) -> Failure {
    Failure::Retry {
        error: telemetry::describe_panic(payload),
        after: None,
    }
}

fn out_of_time() -> Failure {
    Failure::Retry {
        error: "ran out of time before the function's deadline".into(),
        after: None,
    }
}
