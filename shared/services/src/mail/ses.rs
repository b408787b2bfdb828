//! The one call to SES, and what its answers mean (spec: comms, C1 and C2).

use std::sync::Arc;

use aws_sdk_sesv2::Client;
use aws_sdk_sesv2::config::http::{HttpRequest, HttpResponse};
use aws_sdk_sesv2::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_sesv2::operation::send_email::SendEmailError;
use aws_sdk_sesv2::types::{Body, Content, Destination, EmailContent, Message, MessageHeader, MessageTag};
use aws_smithy_http_client::tls;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::result::ConnectorError;
use futures::future::BoxFuture;
use tokio::sync::OwnedSemaphorePermit;

use super::pacing::Account;
use crate::{Aws, Error, Redacted};

/// A mail as SES gets it: one recipient, both parts.
#[derive(Clone, Debug)]
pub(super) struct Letter {
    pub from: String,
    pub reply_to: Option<String>,
    pub to: Redacted<String>,
    pub subject: Redacted<String>,
    pub text: Redacted<String>,
    pub html: Redacted<String>,
    pub headers: Vec<(&'static str, Redacted<String>)>,
    pub tags: Vec<(&'static str, String)>,
    pub configuration_set: Option<String>,
}

/// What became of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Accepted, with SES's message id.
    Accepted(String),
    /// Not accepted; another try may work.
    NotAccepted(String),
    /// Not accepted: too fast.
    TooFast,
    /// Not accepted: the day's quota is used up.
    QuotaUsedUp,
    /// Not accepted: SES refuses the account, not the mail.
    AccountRefused(String),
    /// Not accepted, ever.
    Rejected(String),
    /// The request left, and no answer came.
    InDoubt(String),
}

impl Answer {
    /// Whether the breaker counts it.
    pub(super) fn is_fault(&self) -> bool {
        matches!(self, Self::NotAccepted(_) | Self::InDoubt(_))
    }
}

/// What a call waits for when it is written and signed, and does right before its bytes leave. Without a pass it does not leave at all.
pub(super) type Departure = Arc<dyn Fn() -> BoxFuture<'static, Option<OwnedSemaphorePermit>> + Send + Sync>;

tokio::task_local! {
    static DEPARTURE: Departure;
}

/// The client, whose calls wait for their [`Departure`] with nothing left to do but to leave: to write and sign one takes as long as to
/// send it, and would be done while nobody is on the way.
pub(super) fn client(aws: &Aws) -> Client {
    let https = aws_smithy_http_client::Builder::new()
        .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::AwsLc))
        .build_https();
    let gated = http_client_fn(move |settings, components| {
        SharedHttpConnector::new(Gate(https.http_connector(settings, components)))
    });
    let config = aws_sdk_sesv2::config::Builder::from(&aws.of("SESV2")).http_client(gated);
    Client::from_conf(config.build())
}

#[derive(Debug)]
struct Gate(SharedHttpConnector);

/// A call has got no pass.
#[derive(Debug, thiserror::Error)]
#[error("it was kept back")]
struct KeptBack;

impl HttpConnector for Gate {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let connector = self.0.clone();
        match DEPARTURE.try_with(Clone::clone) {
            Ok(departure) => HttpConnectorFuture::new(async move {
                let Some(_pass) = departure().await else {
                    return Err(ConnectorError::user(KeptBack.into()));
                };
                connector.call(request).await
            }),
            // Not a mail.
            Err(_) => connector.call(request),
        }
    }
}

/// Sends one letter, once; `None` when it was kept back.
pub(super) async fn send(client: &Client, letter: &Letter, departure: Departure) -> Option<Answer> {
    let input = match message(letter) {
        Ok(content) => content,
        Err(reason) => return Some(Answer::Rejected(reason)),
    };
    let mut call = client
        .send_email()
        .from_email_address(&letter.from)
        .set_reply_to_addresses(letter.reply_to.clone().map(|address| vec![address]))
        .destination(Destination::builder().to_addresses(letter.to.expose()).build())
        .content(EmailContent::builder().simple(input).build())
        .set_configuration_set_name(letter.configuration_set.clone());
    for (name, value) in &letter.tags {
        if let Ok(tag) = MessageTag::builder().name(*name).value(tag_value(value)).build() {
            call = call.email_tags(tag);
        }
    }
    match DEPARTURE.scope(departure, call.send()).await {
        Ok(answer) => Some(Answer::Accepted(answer.message_id().unwrap_or_default().to_owned())),
        Err(error) if causes(&error).any(|error| error.is::<KeptBack>()) => None,
        Err(error) => Some(classify(&error)),
    }
}

fn message(letter: &Letter) -> Result<Message, String> {
    let content = |text: &Redacted<String>| {
        Content::builder()
            .data(text.expose())
            .charset("UTF-8")
            .build()
            .map_err(|error| error.to_string())
    };
    let body = Body::builder()
        .text(content(&letter.text)?)
        .html(content(&letter.html)?)
        .build();
    let mut message = Message::builder().subject(content(&letter.subject)?).body(body);
    for (name, value) in &letter.headers {
        message = message.headers(
            MessageHeader::builder()
                .name(*name)
                .value(value.expose())
                .build()
                .map_err(|error| error.to_string())?,
        );
    }
    Ok(message.build())
}

/// SES takes letters, digits and `_ - . @` in tags, at most 256 of them.
fn tag_value(value: &str) -> String {
    let legal = |c: char| {
        if c.is_ascii_alphanumeric() || "_-.@".contains(c) {
            c
        } else {
            '-'
        }
    };
    value.chars().take(256).map(legal).collect()
}

fn classify(error: &SdkError<SendEmailError, HttpResponse>) -> Answer {
    let reason = || {
        DisplayErrorContext(error)
            .to_string()
            .chars()
            .take(300)
            .collect::<String>()
    };
    match error {
        SdkError::ConstructionFailure(_) => Answer::Rejected(reason()),
        SdkError::DispatchFailure(failure) if failure.is_user() || never_connected(error) => {
            Answer::NotAccepted("connect_failed".into())
        }
        SdkError::DispatchFailure(_) | SdkError::TimeoutError(_) | SdkError::ResponseError(_) => {
            Answer::InDoubt("no_answer".into())
        }
        SdkError::ServiceError(refusal) => {
            let code = refusal.err().code().unwrap_or("unknown");
            match (code, refusal.raw().status().as_u16()) {
                ("TooManyRequestsException", _) | (_, 429) => Answer::TooFast,
                ("LimitExceededException", _) => Answer::QuotaUsedUp,
                (
                    "SendingPausedException"
                    | "AccountSuspendedException"
                    | "MailFromDomainNotVerifiedException"
                    | "NotFoundException",
                    _,
                ) => Answer::AccountRefused(code.to_owned()),
                (_, 500..) => Answer::NotAccepted(code.to_owned()),
                _ => Answer::Rejected(format!(
                    "{code}: {}",
                    refusal
                        .err()
                        .message()
                        .unwrap_or_default()
                        .chars()
                        .take(200)
                        .collect::<String>()
                )),
            }
        }
        _ => Answer::InDoubt("no_answer".into()),
    }
}

/// Whether the connection itself failed, so that nothing can have been sent.
fn never_connected(error: &(dyn std::error::Error + 'static)) -> bool {
    causes(error).any(|error| {
        error
            .downcast_ref::<hyper_util::client::legacy::Error>()
            .is_some_and(hyper_util::client::legacy::Error::is_connect)
    })
}

/// An error and its sources.
fn causes<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| error.source())
}

/// Asks SES for the account's quota.
pub(super) async fn account(client: &Client) -> Result<Account, Error> {
    let answer = client.get_account().send().await.map_err(|error| {
        Error::transient("SES did not tell the account's quota").caused_by(DisplayErrorContext(&error).to_string())
    })?;
    let quota = answer
        .send_quota()
        .ok_or_else(|| Error::transient("SES told no quota"))?;
    Ok(Account {
        max_send_rate: quota.max_send_rate(),
        max_24h_send: quota.max24_hour_send(),
        sent_24h: quota.sent_last24_hours(),
        sending_enabled: answer.sending_enabled(),
        enforcement_status: answer.enforcement_status().map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tokio::net::TcpListener;

    use super::*;

    fn client_of(endpoint: &str) -> Client {
        client(&Aws::at(endpoint))
    }

    async fn send_at_once(client: &Client, letter: &Letter) -> Option<Answer> {
        let gate = Arc::new(tokio::sync::Semaphore::new(1));
        send(
            client,
            letter,
            Arc::new(move || gate.clone().acquire_owned().map(Result::ok).boxed()),
        )
        .await
    }

    fn letter() -> Letter {
        let text = || Redacted::new("text".to_owned());
        Letter {
            from: "hello@example.test".into(),
            reply_to: None,
            to: Redacted::new("ann@example.test".to_owned()),
            subject: text(),
            text: text(),
            html: text(),
            headers: Vec::new(),
            tags: Vec::new(),
            configuration_set: None,
        }
    }

    #[tokio::test]
    async fn a_call_that_never_connected_was_not_accepted_and_one_without_an_answer_is_in_doubt() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = client_of(&format!("http://{}", listener.local_addr().unwrap()));
        let letter = letter();
        let hang_up = async { drop(listener.accept().await.unwrap()) };
        let (answer, ()) = tokio::join!(send_at_once(&client, &letter), hang_up);
        assert_eq!(answer, Some(Answer::InDoubt("no_answer".into())));

        drop(listener);
        let answer = send_at_once(&client, &letter).await;
        assert_eq!(answer, Some(Answer::NotAccepted("connect_failed".into())));
    }

    #[tokio::test]
    async fn a_call_that_is_kept_back_never_connects() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = client_of(&format!("http://{}", listener.local_addr().unwrap()));
        let letter = letter();
        let kept_back = send(&client, &letter, Arc::new(|| std::future::ready(None).boxed()));
        tokio::select! {
            answer = kept_back => assert_eq!(answer, None),
            _ = listener.accept() => panic!("it connected"),
        }
    }
}
