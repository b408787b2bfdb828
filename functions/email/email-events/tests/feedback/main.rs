//! `email-events` (spec: comms), the built function on a real database.

mod acceptance;
mod campaigns;
mod edges;
mod faults;
mod wishes;

use serde_json::{Value, json};
use services::mail::{Claim, Signer};
use testkit::World;
use testkit::people::LedgerRow;

const JOB: &str = "email-events";
const DISPATCH: &str = "email-dispatch";
/// As every function of a test is given it.
const KEY: &str = "test-key-that-signs-unsubscribe-links";
/// When SES took the mails of these tests.
const SENT_AT: &str = "2025-10-20T09:00:00Z";

/// An event of SES about a mail of the ledger.
fn event(mail: &str, to: &str, kind: &str, field: &str, report: Value) -> Value {
    json!({
        "eventType": kind,
        "mail": { "messageId": format!("ses-{mail}"), "timestamp": SENT_AT, "destination": [to], "tags": { "email_id": [mail] } },
        field: report
    })
}

fn send(mail: &str, to: &str) -> Value {
    event(mail, to, "Send", "send", json!({}))
}

fn delivery(mail: &str, to: &str, at: &str) -> Value {
    event(
        mail,
        to,
        "Delivery",
        "delivery",
        json!({ "timestamp": at, "recipients": [to], "smtpResponse": "250 ok" }),
    )
}

fn open(mail: &str, to: &str, at: &str) -> Value {
    let agent = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15";
    event(
        mail,
        to,
        "Open",
        "open",
        json!({ "timestamp": at, "ipAddress": "192.0.2.1", "userAgent": agent }),
    )
}

fn click(mail: &str, to: &str, at: &str) -> Value {
    let agent = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) Mobile/15E148";
    let report = json!({ "timestamp": at, "ipAddress": "192.0.2.1", "userAgent": agent, "link": "https://app.example.test/news" });
    event(mail, to, "Click", "click", report)
}

fn bounce(mail: &str, to: &str, kind: &str, sub_type: &str, at: &str) -> Value {
    let report = json!({
        "bounceType": kind, "bounceSubType": sub_type, "timestamp": at, "feedbackId": format!("feedback-{mail}-{at}"),
        "bouncedRecipients": [{ "emailAddress": to, "status": "5.1.1", "diagnosticCode": "smtp; 550 no such user" }]
    });
    event(mail, to, "Bounce", "bounce", report)
}

fn complaint(mail: &str, to: &str, kind: &str) -> Value {
    let report = json!({
        "complainedRecipients": [{ "emailAddress": to }], "timestamp": "2025-10-20T11:00:00Z", "feedbackId": format!("complaint-{mail}"),
        "complaintFeedbackType": kind
    });
    event(mail, to, "Complaint", "complaint", report)
}

/// A click on the unsubscribe link of a mail.
fn unsubscribe(claim: &Claim) -> Value {
    let token = Signer::parse(KEY).expect("a key").sign(claim);
    json!({ "kind": "unsubscribe", "token": token, "source": "one_click", "ip": "192.0.2.7", "userAgent": "Mail/1.0" })
}

fn claim(mail: &str, to: &str, user: Option<&str>, category: &str) -> Claim {
    Claim {
        user_id: user.map(str::to_owned),
        address_hash: Claim::hash(to),
        category: category.to_owned(),
        digest: None,
        campaign_id: None,
        email_id: mail.to_owned(),
    }
}

/// A mail of the ledger that SES has.
async fn sent(world: &World, row: LedgerRow) -> String {
    let mail = world.ledger([row]).await.remove(0);
    let sent = "UPDATE email_messages SET status = 'SENT', ses_message_id = 'ses-' || id, sent_at = '2025-10-20T09:00:00Z', delivery_rank = 10
                WHERE id = $1";
    world.execute(sent, &[&mail]).await;
    mail
}

/// One text of the database.
async fn text(world: &World, sql: &str, value: &str) -> Option<String> {
    sqlx::query_scalar(sqlx::AssertSqlSafe(sql.to_owned()))
        .bind(value)
        .fetch_one(&world.db)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"))
}

/// Reason, scope and whether it lasts for good.
async fn suppression(world: &World, email: &str) -> Option<(String, String, bool)> {
    sqlx::query_as("SELECT concat_ws(' ', reason, bounce_type), scope, expires_at IS NULL FROM email_suppressions WHERE email = $1")
        .bind(email)
        .fetch_optional(&world.db)
        .await
        .expect("the list")
}

fn listed(reason: &str, scope: &str, for_good: bool) -> Option<(String, String, bool)> {
    Some((reason.to_owned(), scope.to_owned(), for_good))
}
