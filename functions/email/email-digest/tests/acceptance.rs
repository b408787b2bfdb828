//! `email-digest` (spec: comms), the built function on a real database. What all digests share is tested with `notification-digest`.

use serde_json::{Value, json};
use testkit::people::LedgerRow;
use testkit::{Answer, World, faults};

const JOB: &str = "email-digest";
const DISPATCH: &str = "email-dispatch";
const MONDAY: &str = "2025-10-20T09:00:00Z";

async fn tick(world: &World, slot: &str) {
    world.deliver(JOB, [json!({ "frequency": "ALL", "asOf": slot })]).await;
}

async fn subscriber(world: &World, name: &str) -> String {
    let user = world.user(name).await;
    world.prefers(&user, "email_frequency = 'DAILY'").await;
    user
}

fn project(name: &str) -> Value {
    json!({ "project_name": name, "brand_name": "Atelier Nord", "project_description": "A series.", "project_url": format!("/projects/{name}") })
}

fn row(user: &str, category: &'static str, template: &'static str, variables: Value) -> LedgerRow {
    LedgerRow {
        stream: "NOTIFICATION",
        category,
        template,
        variables,
        ..LedgerRow::payout("ann@example.test").of(user)
    }
}

fn matching(user: &str, name: &str) -> LedgerRow {
    row(user, "project_invitations", "project-match-notification", project(name))
}

/// Rows that were held at a time of the past.
async fn held(world: &World, rows: impl IntoIterator<Item = LedgerRow>, at: &str) -> Vec<String> {
    let ids = world.ledger(rows).await;
    for id in &ids {
        let hold = "UPDATE email_messages SET status = 'HELD', created_at = $2::timestamptz, expires_at = $2::timestamptz + interval '35 days' WHERE id = $1";
        world.execute(hold, &[id, at]).await;
    }
    ids
}

async fn verdict(world: &World, mail: &str) -> (String, Option<String>) {
    let entry = world.entry(mail).await;
    (entry.status, entry.reason)
}

fn is(status: &str, reason: impl Into<Option<&'static str>>) -> (String, Option<String>) {
    (status.to_owned(), reason.into().map(str::to_owned))
}

async fn deliveries(world: &World) -> Vec<(String, String, i32)> {
    sqlx::query_as("SELECT period_key, status, item_count FROM digest_deliveries ORDER BY window_end")
        .fetch_all(&world.db)
        .await
        .expect("the rows")
}

fn delivery(period_key: &str, status: &str, items: i32) -> (String, String, i32) {
    (period_key.to_owned(), status.to_owned(), items)
}

#[tokio::test]
async fn what_can_wait_is_held_and_comes_as_one_mail() {
    let world = World::new("what_can_wait_is_held").await;
    let ann = subscriber(&world, "Ann").await;
    let month = json!({ "month": "September 2025", "earnings_cents": 238_417, "currency": "USD", "new_licenses": 3, "profile_views": 1,
                        "active_licenses": 17, "analytics_url": "/analytics" });
    let failed = json!({ "amount_cents": 1, "currency": "USD", "error_message": "No.", "action_steps": "None.", "support_url": "/support" });
    let rows = [
        matching(&ann, "one"),
        matching(&ann, "two"),
        row(&ann, "reports", "creator-monthly-report", month),
        row(&ann, "payouts", "payout-failed", failed),
    ];
    let ids = world.ledger(rows).await;
    world.deliver(DISPATCH, [json!({})]).await;
    assert_eq!(world.mailbox.accepted(), 1);
    assert_eq!(verdict(&world, &ids[3]).await, is("SENT", None));
    for id in &ids[..3] {
        assert_eq!(verdict(&world, id).await, is("HELD", None));
    }
    assert_eq!(
        world
            .count(
                "SELECT count(*) FROM email_messages WHERE status = 'HELD' AND expires_at > now() + interval '34 days'"
            )
            .await,
        3
    );

    // Now is after every slot of today that is due, whatever the hour.
    world.prefers(&ann, "digest_hour = extract(hour FROM now())").await;
    world
        .deliver(JOB, [json!({ "frequency": "ALL" }), json!({ "frequency": "DAILY" })])
        .await;
    let mails = world.mailbox.mails();
    assert_eq!((mails.len(), &*mails[1].subject), (2, "Your daily update: 3 items"));
    let text = &mails[1].text;
    assert!(
        text.contains("New project opportunity: one") && text.contains("September 2025 performance report"),
        "{text}"
    );
    assert!(
        text.contains("You earned $2,384.17, with 3 new licenses and 1 profile view."),
        "{text}"
    );
    assert!(text.find("PROJECTS") < text.find("REPORTS"), "{text}");
    for id in &ids[..3] {
        assert_eq!(verdict(&world, id).await, is("DIGESTED", None));
    }
}

#[tokio::test]
async fn many_held_mails_are_forty_lines_and_a_number_and_twins_are_one() {
    let world = World::new("many_held_mails_are_forty_lines").await;
    world.scale(JOB, 2);
    let ann = subscriber(&world, "Ann").await;
    let categories = [
        "announcements",
        "blog",
        "reports",
        "project_invitations",
        "license_expiry",
    ];
    let rows = (0..60).map(|n| LedgerRow {
        category: categories[n % 5],
        ..matching(&ann, &format!("p{n}"))
    });
    held(&world, rows, "2025-10-20T08:00:00Z").await;
    held(
        &world,
        [matching(&ann, "p3"), matching(&ann, "p3")],
        "2025-10-20T08:30:00Z",
    )
    .await;
    let slot = json!({ "frequency": "ALL", "asOf": MONDAY });
    world.deliver(JOB, [slot.clone(), slot]).await;

    let mails = world.mailbox.mails();
    assert_eq!((mails.len(), &*mails[0].subject), (1, "Your daily update: 60 items"));
    let text = &mails[0].text;
    assert_eq!(text.matches("New project opportunity").count(), 40, "{text}");
    assert_eq!(
        (text.matches("and 2 more").count(), text.matches("and 12 more").count()),
        (4, 1),
        "{text}"
    );
    assert!(text.find("LICENSES") < text.find("PROJECTS") && text.find("BLOG") < text.find("ANNOUNCEMENTS"));
    assert_eq!(deliveries(&world).await, [delivery("2025-10-20", "SENT", 62)]);
}

#[tokio::test]
async fn who_wants_mail_at_once_again_gets_what_is_fresh() {
    let world = World::new("who_wants_mail_at_once_again").await;
    let (ann, bob, cid, dan) = (
        subscriber(&world, "Ann").await,
        subscriber(&world, "Bob").await,
        subscriber(&world, "Cid").await,
        subscriber(&world, "Dan").await,
    );
    let fresh = held(
        &world,
        [&ann, &bob, &cid, &dan].map(|user| matching(user, "fresh")),
        "2025-10-20T07:00:00Z",
    )
    .await;
    let old = held(&world, [matching(&ann, "old")], "2025-10-17T09:00:00Z").await;
    world.prefers(&ann, "email_frequency = 'IMMEDIATE'").await;
    world.prefers(&bob, "email_frequency = 'NEVER'").await;
    world.prefers(&cid, "project_invitations = false").await;
    world
        .execute("UPDATE users SET deleted_at = now() WHERE id = $1", &[&dan])
        .await;
    tick(&world, MONDAY).await;
    world.deliver(DISPATCH, [json!({ "asOf": MONDAY })]).await;
    assert_eq!(verdict(&world, &fresh[0]).await, is("SENT", None));
    assert_eq!(verdict(&world, &old[0]).await, is("SKIPPED", "stale"));
    assert_eq!(verdict(&world, &fresh[1]).await, is("SKIPPED", "frequency_never"));
    assert_eq!(verdict(&world, &fresh[2]).await, is("SKIPPED", "category_off"));
    assert_eq!(verdict(&world, &fresh[3]).await, is("SKIPPED", "user_inactive"));
    assert_eq!(world.mailbox.accepted(), 1);
    assert_eq!(deliveries(&world).await, [delivery("2025-10-20", "EMPTY", 0)]);
}

#[tokio::test]
async fn a_broken_mail_fails_alone_and_a_failed_digest_gives_back_the_rest() {
    let world = World::new("a_broken_mail_fails_alone").await;
    let ann = subscriber(&world, "Ann").await;
    let notification = world.notification(&ann, testkit::people::Notification::default()).await;
    let rows = [
        matching(&ann, "one"),
        row(&ann, "reports", "never-was", json!({})),
        row(&ann, "reports", "creator-monthly-report", json!({})),
    ];
    let ids = held(&world, rows, "2025-10-20T08:00:00Z").await;
    world
        .execute(
            "UPDATE email_messages SET notification_id = $2 WHERE id = $1",
            &[&ids[0], &notification],
        )
        .await;
    world
        .execute(
            "UPDATE notifications SET email_state = 'QUEUED', email_message_id = $1",
            &[&ids[0]],
        )
        .await;
    world.mailbox.fail_next(1, Answer::MessageRejected);
    tick(&world, MONDAY).await;
    assert_eq!(verdict(&world, &ids[0]).await, is("HELD", None));
    assert_eq!(
        verdict(&world, &ids[1]).await,
        is("FAILED", "template_error: no template `never-was`")
    );
    assert_eq!(verdict(&world, &ids[2]).await.0, "FAILED");
    tick(&world, "2025-10-21T09:00:00Z").await;
    assert_eq!(verdict(&world, &ids[0]).await, is("DIGESTED", None));
    assert_eq!(world.email_state(&notification).await, is("SENT", None));
    assert_eq!(
        deliveries(&world).await,
        [delivery("2025-10-20", "FAILED", 1), delivery("2025-10-21", "SENT", 1)]
    );
    assert_eq!(world.mailbox.accepted(), 1);
}

#[tokio::test]
async fn without_held_mail_the_slot_is_closed() {
    let world = World::new("without_held_mail_the_slot_is_closed").await;
    subscriber(&world, "Ann").await;
    tick(&world, MONDAY).await;
    assert_eq!(deliveries(&world).await, [delivery("2025-10-20", "EMPTY", 0)]);
    assert_eq!(world.mailbox.accepted(), 0);
}

#[tokio::test]
async fn held_mail_is_carried_or_let_go_once_whatever_fails() {
    let report = faults::everywhere("held_mail_is_carried_or_let_go", async |world| {
        let (ann, bob) = (subscriber(world, "Ann").await, world.user("Bob").await);
        world.prefers(&ann, "digest_hour = extract(hour FROM now())").await;
        let now = chrono::Utc::now().to_rfc3339();
        let ids = held(
            world,
            [
                matching(&ann, "one"),
                LedgerRow {
                    to: "bob@example.test".to_owned(),
                    ..matching(&bob, "two")
                },
            ],
            &now,
        )
        .await;

        world.deliver(JOB, [json!({ "frequency": "ALL" })]).await;
        let moving = "SELECT (SELECT count(*) FROM email_messages WHERE status IN ('PENDING', 'SENDING', 'UNCERTAIN'))
                           + (SELECT count(*) FROM digest_deliveries WHERE status = 'ENQUEUED')";
        for minutes in [3, 61, 61] {
            if world.count(moving).await > 0 {
                world.advance_minutes(minutes).await;
                world.deliver(DISPATCH, [json!({})]).await;
            }
        }

        assert_eq!(verdict(world, &ids[0]).await, is("DIGESTED", None));
        for address in ["ann@example.test", "bob@example.test"] {
            let sent = "SELECT count(*) FROM email_messages WHERE to_email = 'ADDRESS' AND status = 'SENT'"
                .replace("ADDRESS", address);
            let mails = world.mailbox.sent_to(address).len() as i64;
            assert!((world.count(&sent).await..=1).contains(&mails), "{address}: {mails}");
        }
        assert_eq!(
            world
                .count("SELECT count(*) FROM digest_deliveries WHERE status = 'SENT' AND item_count = 1")
                .await,
            1
        );
        assert_eq!((world.dead_letters(JOB), world.queued(JOB)), (vec![], vec![]));
    })
    .await;
    assert!(report.cases > 0);
}
