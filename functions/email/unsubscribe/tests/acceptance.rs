//! `unsubscribe`, the built function behind its URL.

use serde_json::{Value, json};
use services::mail::{Claim, Signer};
use testkit::people::LedgerRow;
use testkit::{World, faults};

const ENDPOINT: &str = "unsubscribe";
const JOB: &str = "email-events";
const DISPATCH: &str = "email-dispatch";
const ANN: &str = "ann@example.test";
/// As every function of a test is given it.
const KEY: &str = "test-key-that-signs-unsubscribe-links";

/// A request as a function URL sends it.
fn request(method: &str, token: &str, body: &str) -> Value {
    json!({
        "version": "2.0", "routeKey": "$default", "rawPath": format!("/api/email/unsubscribe/{token}"), "rawQueryString": "",
        "headers": { "x-forwarded-for": "192.0.2.7, 10.0.0.1", "content-type": "application/x-www-form-urlencoded" },
        "requestContext": { "http": { "method": method, "path": "/", "sourceIp": "10.0.0.1", "userAgent": "Mail/1.0" } },
        "body": body, "isBase64Encoded": false
    })
}

fn token(user: &str) -> String {
    Signer::parse(KEY).expect("a key").sign(&Claim {
        user_id: Some(user.to_owned()),
        address_hash: Claim::hash(ANN),
        category: "payouts".to_owned(),
        digest: None,
        campaign_id: None,
        email_id: "m1".to_owned(),
    })
}

async fn ask(world: &World, method: &str, token: &str, body: &str) -> (u64, String) {
    let answer = world
        .invoke(ENDPOINT, request(method, token, body))
        .await
        .expect("an answer");
    let status = answer["statusCode"].as_u64().expect("a status");
    (status, answer["body"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn one_click_on_the_link_of_a_mail_stops_its_category_and_not_the_password_mail() {
    let world = World::new("one_click_on_the_link").await;
    let ann = world.user("Ann").await;
    world.ledger([LedgerRow::payout(ANN).of(&ann)]).await;
    world.deliver(DISPATCH, [json!({})]).await;
    let mail = world.mailbox.sent_to(ANN).remove(0);
    assert_eq!(mail.headers["List-Unsubscribe-Post"], "List-Unsubscribe=One-Click");
    let link = mail.headers["List-Unsubscribe"].trim_matches(['<', '>']).to_owned();
    let token = link
        .strip_prefix("https://app.example.test/api/email/unsubscribe/")
        .expect("a link of the app");

    assert_eq!(
        ask(&world, "POST", token, "List-Unsubscribe=One-Click").await,
        (200, String::new())
    );
    world.drain(JOB).await;

    let next = world
        .ledger([LedgerRow::payout(ANN).of(&ann), LedgerRow::essential(ANN).of(&ann)])
        .await;
    world.deliver(DISPATCH, [json!({})]).await;
    assert_eq!(world.entry(&next[0]).await.verdict(), ("SKIPPED", Some("category_off")));
    assert_eq!(world.entry(&next[1]).await.verdict(), ("SENT", None));
    let log = "SELECT count(*) FROM email_unsubscribe_log WHERE source = 'one_click' AND host(ip_address) = '192.0.2.7' AND user_agent = 'Mail/1.0'";
    assert_eq!(world.count(log).await, 1);
}

#[tokio::test]
async fn looking_at_a_link_changes_nothing_and_its_button_does() {
    let world = World::new("looking_at_a_link").await;
    let token = token("ann");
    for method in ["GET", "HEAD"] {
        let (status, body) = ask(&world, method, &token, "").await;
        assert_eq!(status, 200);
        assert!(
            body.contains("e-mails about payouts") && body.contains("<form method=\"post\">"),
            "{body}"
        );
    }
    assert_eq!(world.queued(JOB), []);
    let (status, body) = ask(&world, "POST", &token, "confirm=yes").await;
    assert!(status == 200 && body.contains("You are unsubscribed"), "{body}");
    let queued: Vec<Value> = world.queued(JOB).iter().map(|message| message.json()).collect();
    let expected = json!({ "kind": "unsubscribe", "token": token, "source": "email_link", "ip": "192.0.2.7", "userAgent": "Mail/1.0" });
    assert_eq!(queued, [expected]);
}

#[tokio::test]
async fn what_we_did_not_sign_or_what_asks_for_nothing_is_refused() {
    let world = World::new("what_we_did_not_sign").await;
    let token = token("ann");
    for (method, token, body, status) in [
        ("POST", "e30.c2ln", "List-Unsubscribe=One-Click", 400),
        ("GET", "", "", 400),
        ("POST", &token[..token.len() - 2], "List-Unsubscribe=One-Click", 400),
        ("POST", &token, "", 400),
        ("DELETE", &token, "List-Unsubscribe=One-Click", 405),
    ] {
        assert_eq!(ask(&world, method, token, body).await.0, status, "{method} {body}");
    }
    assert_eq!(world.queued(JOB), []);
}

#[tokio::test]
async fn a_wish_is_on_the_queue_when_it_is_granted_whatever_fails() {
    faults::everywhere("a_wish_is_on_the_queue", async |world: &World| {
        let mut granted = false;
        // A mail program asks again until it hears yes.
        for _ in 0..3 {
            let answer = world
                .invoke(ENDPOINT, request("POST", &token("ann"), "List-Unsubscribe=One-Click"))
                .await;
            granted = answer.is_ok_and(|answer| answer["statusCode"] == 200);
            if granted {
                break;
            }
        }
        assert!(granted);
        assert!(!world.queued(JOB).is_empty());
    })
    .await;
}
