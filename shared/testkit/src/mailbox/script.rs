//! Which answer comes when.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use super::mail::Envelope;
use crate::http;

/// An answer to `SendEmail` that is not simply a message id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// HTTP 503 with a service error: not accepted.
    ServiceUnavailable,
    /// HTTP 500 with a service error: not accepted.
    InternalError,
    /// HTTP 429: above the sending rate.
    TooManyRequests,
    /// The daily quota is used up.
    LimitExceeded,
    /// Sending is paused for the account or the configuration set.
    SendingPaused,
    /// The account is suspended for good.
    AccountSuspended,
    /// The sender's domain is not verified.
    MailFromDomainNotVerified,
    /// No such configuration set.
    NotFound,
    /// SES does not understand the request.
    BadRequest,
    /// SES refuses the content.
    MessageRejected,
    /// Accepted, but the connection is cut before the answer.
    AcceptedButNoAnswer,
    /// Not accepted, and the connection is cut.
    Cut,
    /// Not accepted, and no answer ever.
    Hang,
}

impl Answer {
    /// `None` = there is no answer.
    pub(super) fn on_the_wire(self) -> Option<http::Answer> {
        let (status, code, message) = match self {
            Self::ServiceUnavailable => ("503 Service Unavailable", "ServiceUnavailable", "try again later"),
            Self::InternalError => (
                "500 Internal Server Error",
                "InternalServiceErrorException",
                "it failed",
            ),
            Self::TooManyRequests => (
                "429 Too Many Requests",
                "TooManyRequestsException",
                "Maximum sending rate exceeded.",
            ),
            Self::LimitExceeded => (
                "400 Bad Request",
                "LimitExceededException",
                "Daily message quota exceeded.",
            ),
            Self::SendingPaused => ("400 Bad Request", "SendingPausedException", "Sending is paused."),
            Self::AccountSuspended => (
                "400 Bad Request",
                "AccountSuspendedException",
                "The account is suspended.",
            ),
            Self::MailFromDomainNotVerified => (
                "400 Bad Request",
                "MailFromDomainNotVerifiedException",
                "The sender's domain is not verified.",
            ),
            Self::NotFound => (
                "404 Not Found",
                "NotFoundException",
                "The configuration set does not exist.",
            ),
            Self::BadRequest => ("400 Bad Request", "BadRequestException", "The request is malformed."),
            Self::MessageRejected => ("400 Bad Request", "MessageRejected", "The content is refused."),
            Self::AcceptedButNoAnswer | Self::Cut | Self::Hang => return None,
        };
        Some(http::Answer::error(status, code, message))
    }
}

#[derive(Debug, Default)]
pub(super) struct Script {
    pub(super) next: VecDeque<Answer>,
    pub(super) every: HashMap<Answer, usize>,
    pub(super) to: HashMap<String, Answer>,
    bucket: Option<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    per_second: f64,
    burst: f64,
    tokens: f64,
    filled: Instant,
}

impl Script {
    pub(super) fn limit(&mut self, per_second: f64, burst: f64) {
        self.bucket = Some(Bucket {
            per_second,
            burst,
            tokens: burst,
            filled: Instant::now(),
        });
    }

    /// What the call with this serial number gets; `None` = it is accepted.
    pub(super) fn answer(&mut self, serial: usize, envelope: &Envelope<'_>) -> Option<Answer> {
        if let Some(answer) = self.next.pop_front() {
            return Some(answer);
        }
        if let Some(answer) = envelope.recipients().find_map(|recipient| self.to.get(recipient)) {
            return Some(*answer);
        }
        if let Some((answer, _)) = self.every.iter().find(|(_, nth)| serial.is_multiple_of(**nth)) {
            return Some(*answer);
        }
        let bucket = self.bucket.as_mut()?;
        (!bucket.take(envelope.recipients().count() as f64)).then_some(Answer::TooManyRequests)
    }
}

impl Bucket {
    fn take(&mut self, wanted: f64) -> bool {
        let now = Instant::now();
        let earned = now.duration_since(self.filled).as_secs_f64() * self.per_second;
        self.tokens = (self.tokens + earned).min(self.burst);
        self.filled = now;
        let enough = self.tokens >= wanted;
        if enough {
            self.tokens -= wanted;
        }
        enough
    }
}
