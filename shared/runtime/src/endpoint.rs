//! A function that a URL wakes: one request, one answer, no run in the ledger.
//!
//! # Invariants
//!
//! * **What is accepted is in a queue.** An endpoint answers "yes" only after SQS has the message. It goes there directly: there is no
//!   transaction that an outbox could be atomic with, and an endpoint has no database to be down.
//! * **Whoever asked asks again.** Without an answer, or with one that says "later", the other side repeats itself; the job behind the
//!   queue bears the same message twice.

use std::collections::{BTreeMap, HashMap};
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use jobs::{Endpoint, Job, Message};
use lambda_runtime::{LambdaEvent, Runtime, service_fn};
use serde::Deserialize;
use serde_json::{Value, json};
use services::{Aws, Error, Outgoing, Queues};
use tokio::time::timeout_at;

use crate::batch::ANSWER_WITHIN;
use crate::event::TRACE_PARENT;
use crate::{serve, telemetry};

/// A request. It has no `Debug`: paths and bodies hold tokens.
pub struct Request {
    /// GET, POST, …
    pub method: String,
    /// The path, as it was asked for.
    pub path: String,
    /// The body as text, empty when there is none.
    pub body: String,
    /// Who asks, as far as that can be known; whoever lies about it is believed.
    pub ip: Option<String>,
    /// With what.
    pub user_agent: Option<String>,
    trace_id: String,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// Headers, by their names in lower case.
    pub headers: BTreeMap<&'static str, String>,
    /// The body.
    pub body: String,
}

impl Response {
    /// An answer without a body.
    pub fn empty(status: u16) -> Self {
        Self {
            status,
            headers: BTreeMap::new(),
            body: String::new(),
        }
    }

    /// The same with a header.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.insert(name, value.into());
        self
    }
}

/// Sends to the queues that the endpoint declares.
pub struct Sender {
    endpoint: Endpoint,
    queues: Queues,
}

impl Sender {
    /// Sends a message; done when SQS has it. The job must be declared in `sends_to`: the function has no permission for other queues.
    pub async fn send<M: Message>(&self, job: &Job<M>, message: &M, request: &Request) -> Result<(), Error> {
        let target = job.spec().name();
        if !self.endpoint.sends_to.contains(&target) {
            let name = self.endpoint.name();
            return Err(Error::permanent(format!(
                "`{name}` does not declare that it sends to `{target}`"
            )));
        }
        let outgoing = Outgoing {
            queue: target.to_owned(),
            body: serde_json::to_string(message).unwrap_or_default(),
            attributes: BTreeMap::from([(TRACE_PARENT.to_owned(), telemetry::trace_parent(&request.trace_id))]),
            delay: Duration::ZERO,
        };
        let sent = self.queues.send(&[outgoing]).await.pop();
        sent.unwrap_or_else(|| Err(Error::transient("the queue said nothing of a message")))
    }
}

/// A request as a function URL sends it (payload format 2.0).
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct UrlEvent {
    raw_path: String,
    #[serde(default)]
    headers: HashMap<String, String>,
    request_context: RequestContext,
    #[serde(default)]
    body: Option<String>,
    #[serde(default)]
    is_base64_encoded: bool,
}

#[derive(Deserialize)]
struct RequestContext {
    http: Http,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Http {
    method: String,
    #[serde(default)]
    source_ip: Option<String>,
    #[serde(default)]
    user_agent: Option<String>,
}

impl From<UrlEvent> for Request {
    fn from(event: UrlEvent) -> Self {
        let body = event.body.unwrap_or_default();
        let body = match event.is_base64_encoded {
            true => String::from_utf8_lossy(&BASE64.decode(body).unwrap_or_default()).into_owned(),
            false => body,
        };
        let http = event.request_context.http;
        // The platform's own front stands between: it names the first.
        let first = event
            .headers
            .get("x-forwarded-for")
            .and_then(|hops| hops.split(',').next());
        let address = |text: &&str| text.parse::<std::net::IpAddr>().is_ok();
        Self {
            method: http.method,
            path: event.raw_path,
            body,
            ip: first
                .map(str::trim)
                .filter(address)
                .map(str::to_owned)
                .or(http.source_ip),
            user_agent: http.user_agent.filter(|agent| !agent.is_empty()),
            trace_id: telemetry::trace_id(event.headers.get(TRACE_PARENT)),
        }
    }
}

/// A handler without its type, so that a function crate compiles little more than its own code.
type Handler = Box<dyn Fn(Rc<Request>, Rc<Sender>) -> LocalBoxFuture<'static, Response>>;

/// Serves an endpoint. Returns only when the function cannot start.
pub fn serve_endpoint(endpoint: Endpoint, handler: impl AsyncFn(&Request, &Sender) -> Response + 'static) -> ExitCode {
    let handler = Rc::new(handler);
    let handler = move |request: Rc<Request>, sender: Rc<Sender>| {
        let handler = handler.clone();
        async move { handler(&request, &sender).await }.boxed_local()
    };
    start(endpoint, Box::new(handler))
}

fn start(endpoint: Endpoint, handler: Handler) -> ExitCode {
    serve::process(endpoint.name(), run(endpoint, handler))
}

async fn run(endpoint: Endpoint, handler: Handler) -> Result<(), String> {
    let aws = Aws::from_env().map_err(|error| error.chain())?;
    let queues = serve::queues(&aws).map_err(|error| error.chain())?;
    let sender = Rc::new(Sender { endpoint, queues });
    let handler = Rc::new(handler);
    let service = service_fn(move |event: LambdaEvent<UrlEvent>| {
        let (sender, handler) = (sender.clone(), handler.clone());
        Box::pin(async move {
            let deadline = serve::deadline(event.context.deadline) - 2 * ANSWER_WITHIN;
            let request = Rc::new(Request::from(event.payload));
            let answering = AssertUnwindSafe(async { handler(request, sender).await }).catch_unwind();
            let response = match timeout_at(deadline, answering).await {
                Ok(Ok(response)) => response,
                // The hook has said where.
                Ok(Err(_)) => Response::empty(500),
                Err(_) => Response::empty(503).with("retry-after", "60"),
            };
            let answer = json!({ "statusCode": response.status, "headers": response.headers, "body": response.body });
            Ok::<Value, lambda_runtime::Error>(answer)
        })
    });
    Runtime::new(service).run().await.map_err(|error| error.to_string())
}
