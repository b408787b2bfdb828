use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::mail::Envelope;
use super::{Answer, Shared, State, lock};
use crate::http::{self, Reply, Request, Service};

#[derive(Clone)]
pub(super) struct Api(pub(super) Arc<Shared>);

impl Service for Api {
    async fn reply(&self, request: Request) -> Reply {
        match (request.method(), request.target()) {
            ("POST", "/v2/email/outbound-emails") => {
                let (reply, latency) = lock(&self.0).send(&request.body());
                if latency > Duration::ZERO {
                    tokio::time::sleep(latency).await;
                }
                match reply {
                    Some(reply) => reply,
                    None => std::future::pending().await,
                }
            }
            ("GET", "/v2/email/account") => lock(&self.0).account().into(),
            _ => http::Answer::error("404 Not Found", "UnknownOperationException", "no such operation").into(),
        }
    }
}

impl State {
    /// `None` = no reply ever.
    fn send(&mut self, body: &[u8]) -> (Option<Reply>, Duration) {
        self.calls += 1;
        let reply = match serde_json::from_slice::<Envelope<'_>>(body) {
            Err(error) => Some(bad_request(&error.to_string())),
            Ok(envelope) => match self.script.answer(self.calls, &envelope) {
                None => Some(self.accept(&envelope, body)),
                Some(Answer::AcceptedButNoAnswer) => {
                    self.accept(&envelope, body);
                    Some(Reply::Cut)
                }
                Some(Answer::Hang) => None,
                Some(answer) => Some(answer.on_the_wire().map_or(Reply::Cut, Reply::Answer)),
            },
        };
        (reply, self.latency)
    }

    fn accept(&mut self, envelope: &Envelope<'_>, body: &[u8]) -> Reply {
        if let Some(wrong) = envelope.wrong() {
            return bad_request(&wrong);
        }
        let id = format!(
            "{:016x}-00000000-0000-4000-8000-000000000000-000000",
            *self.accepted.borrow() + 1
        );
        if self.keep {
            match envelope.keep(id.clone(), body) {
                Ok(mail) => self.mails.push(mail),
                Err(error) => return bad_request(&error.to_string()),
            }
        }
        self.accepted.send_modify(|count| *count += 1);
        if let Some(key) = envelope.tag("dedupe").or_else(|| envelope.tag("email_id")) {
            *self.tagged.entry(key.into()).or_default() += 1;
        }
        http::Answer::json("200 OK", format!("{{\"MessageId\":\"{id}\"}}")).into()
    }

    fn account(&self) -> http::Answer {
        let account = &self.account;
        let body = json!({
            "EnforcementStatus": account.enforcement_status,
            "ProductionAccessEnabled": true,
            "SendingEnabled": account.sending_enabled,
            "SendQuota": {
                "Max24HourSend": account.max_24_hour_send,
                "MaxSendRate": account.max_send_rate,
                "SentLast24Hours": account.sent_last_24_hours + *self.accepted.borrow() as f64,
            },
        });
        http::Answer::json("200 OK", body.to_string())
    }
}

fn bad_request(reason: &str) -> Reply {
    http::Answer::error("400 Bad Request", "BadRequestException", reason).into()
}
