//! The table of step 3: what becomes of a notification.

use serde_json::json;
use testkit::World;
use testkit::people::{LedgerRow, Notification};

use crate::{deliver, delivered, state};

/// One row of the table.
struct Case {
    when: &'static str,
    /// The user's preferences.
    prefers: &'static str,
    /// One more fact about the user, `$1`.
    user: &'static str,
    notification: Notification,
    /// One more fact about the notification, `$1`.
    fact: &'static str,
    becomes: (&'static str, Option<&'static str>),
}

fn case(when: &'static str, becomes: &'static str, reason: impl Into<Option<&'static str>>) -> Case {
    Case {
        when,
        prefers: "",
        user: "",
        notification: Notification::default(),
        fact: "",
        becomes: (becomes, reason.into()),
    }
}

impl Case {
    fn prefers(self, prefers: &'static str) -> Self {
        Self { prefers, ..self }
    }

    fn user(self, user: &'static str) -> Self {
        Self { user, ..self }
    }

    fn fact(self, fact: &'static str) -> Self {
        Self { fact, ..self }
    }

    fn priority(mut self, priority: &'static str) -> Self {
        self.notification.priority = priority;
        self
    }

    fn kind(mut self, kind: &'static str, metadata: serde_json::Value) -> Self {
        self.notification.kind = kind;
        self.notification.metadata = metadata;
        self
    }

    fn message(self) -> Self {
        self.kind("MESSAGE", json!({ "thread_id": "t1", "sender_name": "Grace" }))
    }
}

/// Delivers all cases in as few batches as there may be; each has its own user.
async fn hold(name: &str, cases: Vec<Case>) {
    let world = World::new(name).await;
    let mut ids = Vec::new();
    for (n, case) in cases.iter().enumerate() {
        let user = world.user(&format!("u{n}")).await;
        if !case.prefers.is_empty() {
            world.prefers(&user, case.prefers).await;
        }
        if !case.user.is_empty() {
            world.execute(case.user, &[&user]).await;
        }
        let id = world.notification(&user, case.notification.clone()).await;
        if !case.fact.is_empty() {
            world.execute(case.fact, &[&id]).await;
        }
        ids.push(id);
    }
    deliver(&world, &ids).await;
    for (n, (case, id)) in cases.iter().zip(&ids).enumerate() {
        let (becomes, reason) = case.becomes;
        assert_eq!(world.email_state(id).await, state(becomes, reason), "{}", case.when);
        let mailed = usize::from(becomes == "SENT" && !case.fact.contains("'SENT'"));
        assert_eq!(
            world.mailbox.sent_to(&format!("u{n}@example.test")).len(),
            mailed,
            "{}",
            case.when
        );
    }
    assert_eq!(world.dead_letters(crate::JOB), []);
}

#[tokio::test]
async fn what_was_decided_before_stays() {
    hold(
        "what_was_decided_before_stays",
        vec![
            case("sent", "SENT", None).fact("UPDATE notifications SET email_state = 'SENT' WHERE id = $1"),
            case("skipped", "SKIPPED", "cooldown").fact(
                "UPDATE notifications SET email_state = 'SKIPPED', email_state_reason = 'cooldown' WHERE id = $1",
            ),
            case("for the digest", "DIGEST", None)
                .fact("UPDATE notifications SET email_state = 'DIGEST' WHERE id = $1"),
            case("in a digest", "DIGESTED", None)
                .fact("UPDATE notifications SET email_state = 'DIGESTED' WHERE id = $1"),
            case("failed", "FAILED", "unconfirmed").fact(
                "UPDATE notifications SET email_state = 'FAILED', email_state_reason = 'unconfirmed' WHERE id = $1",
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn the_producer_and_the_reader_may_make_a_mail_needless() {
    const READ: &str = "UPDATE notifications SET read = true WHERE id = $1";
    hold(
        "the_producer_and_the_reader",
        vec![
            case("carried by a digest", "SKIPPED", "already_digested").priority("URGENT").fact(
                "WITH delivery AS (
                     INSERT INTO digest_deliveries (user_id, kind, frequency, period_key, status, window_start, window_end, slot_at)
                     SELECT user_id, 'NOTIFICATION', 'DAILY', '2025-10-20', 'SENT', now(), now(), now() FROM notifications WHERE id = $1
                     RETURNING id, user_id
                 ) INSERT INTO digest_items (kind, item_id, user_id, digest_delivery_id) SELECT 'NOTIFICATION', $1, user_id, id FROM delivery",
            ),
            case("read, low", "SKIPPED", "already_read").priority("LOW").fact(READ),
            case("read, medium", "SKIPPED", "already_read").fact(READ),
            case("read, but high", "SENT", None).priority("HIGH").fact(READ),
            case("read, but urgent", "SENT", None).priority("URGENT").fact(READ),
            case("mailed by its producer", "SKIPPED", "handled_by_producer")
                .priority("URGENT")
                .fact("UPDATE notifications SET email_policy = 'NONE' WHERE id = $1"),
        ],
    )
    .await;
}

#[tokio::test]
async fn the_gate_is_asked_before_a_mail_is_queued() {
    const SECURITY: &str = r#"{"category": "SECURITY"}"#;
    let security = || serde_json::from_str(SECURITY).unwrap();
    let suppressed = |when, reason, sql| case(when, "SKIPPED", reason).user(sql);
    hold(
        "the_gate_is_asked",
        vec![
            case("deleted", "SKIPPED", "user_inactive").user("UPDATE users SET deleted_at = now() WHERE id = $1"),
            case("deactivated", "SKIPPED", "user_inactive").user("UPDATE users SET is_active = false WHERE id = $1"),
            case("deleted, even for security", "SKIPPED", "user_inactive")
                .kind("SYSTEM", security())
                .user("UPDATE users SET deleted_at = now() WHERE id = $1"),
            case("not verified", "SKIPPED", "email_unverified")
                .user("UPDATE users SET email_verified = NULL WHERE id = $1"),
            case("not verified, but security", "SENT", None)
                .kind("SYSTEM", security())
                .user("UPDATE users SET email_verified = NULL WHERE id = $1"),
            suppressed(
                "bounced",
                "bounce",
                "INSERT INTO email_suppressions (email, reason, scope) SELECT email, 'BOUNCE', 'ALL' FROM users WHERE id = $1",
            ),
            suppressed(
                "complained",
                "complaint",
                "INSERT INTO email_suppressions (email, reason, scope) SELECT email, 'COMPLAINT', 'ALL_BUT_USER_INITIATED' FROM users WHERE id = $1",
            )
            .kind("SYSTEM", security()),
            suppressed(
                "unsubscribed by address",
                "unsubscribe",
                "INSERT INTO email_suppressions (email, reason, scope) SELECT email, 'UNSUBSCRIBE', 'NON_ESSENTIAL' FROM users WHERE id = $1",
            ),
            suppressed(
                "suppressed by hand",
                "manual",
                "INSERT INTO email_suppressions (email, reason, scope) SELECT email, 'MANUAL', 'ALL' FROM users WHERE id = $1",
            ),
            case("unsubscribed by address, but security", "SENT", None).kind("SYSTEM", security()).user(
                "INSERT INTO email_suppressions (email, reason, scope) SELECT email, 'UNSUBSCRIBE', 'NON_ESSENTIAL' FROM users WHERE id = $1",
            ),
            case("a suppression that has ended", "SENT", None).user(
                "INSERT INTO email_suppressions (email, reason, scope, expires_at)
                 SELECT email, 'BOUNCE', 'ALL', now() - interval '1 hour' FROM users WHERE id = $1",
            ),
            case("e-mail is off", "SKIPPED", "global_unsubscribe").prefers("email_enabled = false"),
            case("unsubscribed from all", "SKIPPED", "global_unsubscribe").prefers("global_unsubscribe = true"),
            case("unsubscribed once", "SKIPPED", "global_unsubscribe").prefers("unsubscribed_at = now()"),
            case("e-mail is off, but security", "SENT", None)
                .kind("SYSTEM", security())
                .prefers("email_enabled = false, global_unsubscribe = true, announcements = false"),
            case("licenses are off", "SKIPPED", "category_off").prefers("license_expiry = false"),
            case("payouts are off", "SKIPPED", "category_off").kind("PAYOUT", json!({})).prefers("payouts = false"),
            case("royalties are off", "SKIPPED", "category_off")
                .kind("ROYALTY", json!({}))
                .prefers("royalty_statements = false"),
            case("projects are off", "SKIPPED", "category_off")
                .kind("PROJECT", json!({}))
                .prefers("project_invitations = false"),
            case("messages are off", "SKIPPED", "category_off").message().prefers("messages = false"),
            case("announcements are off", "SKIPPED", "category_off")
                .kind("SYSTEM", json!({}))
                .prefers("announcements = false"),
            case("the blog is off: assigned", "SKIPPED", "category_off")
                .kind("POST_ASSIGNED", json!({}))
                .prefers("blog = false"),
            case("the blog is off: changed", "SKIPPED", "category_off")
                .kind("POST_STATUS_CHANGED", json!({}))
                .prefers("blog = false"),
            case("the blog is off: published", "SKIPPED", "category_off")
                .kind("BLOG", json!({}))
                .prefers("blog = false"),
            case("another category is off", "SENT", None).prefers("payouts = false, blog = false, reports = false"),
            case("no mail for this type", "SKIPPED", "channel_off").user(
                "INSERT INTO notification_channel_preferences (user_id, notification_type, channel, enabled) VALUES ($1, 'LICENSE', 'EMAIL', false)",
            ),
            case("no mail for another type", "SENT", None).user(
                "INSERT INTO notification_channel_preferences (user_id, notification_type, channel, enabled) VALUES ($1, 'PAYOUT', 'EMAIL', false)",
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn messages_follow_their_own_mode_and_nothing_else() {
    const MUTED: &str = "INSERT INTO message_thread_mutes (user_id, thread_id) VALUES ($1, 't1')";
    let cooling = |at: &'static str| match at {
        "1 minute" => {
            "INSERT INTO message_email_cooldowns (user_id, thread_id, last_emailed_at) VALUES ($1, 't1', now() - interval '1 minute')"
        }
        _ => {
            "INSERT INTO message_email_cooldowns (user_id, thread_id, last_emailed_at) VALUES ($1, 't1', now() - interval '6 minutes')"
        }
    };
    hold(
        "messages_follow_their_own_mode",
        vec![
            case("off", "SKIPPED", "messages_off")
                .message()
                .prefers("message_email_mode = 'OFF'"),
            case("off, though urgent", "SKIPPED", "messages_off")
                .message()
                .priority("URGENT")
                .prefers("message_email_mode = 'OFF'"),
            case("muted", "SKIPPED", "thread_muted").message().user(MUTED),
            case("muted, for the digest", "SKIPPED", "thread_muted")
                .message()
                .user(MUTED)
                .prefers("message_email_mode = 'DIGEST'"),
            case("for the digest", "DIGEST", "message_digest")
                .message()
                .prefers("message_email_mode = 'DIGEST'"),
            case("mailed a minute ago", "SKIPPED", "cooldown")
                .message()
                .user(cooling("1 minute")),
            case("mailed six minutes ago", "SENT", None)
                .message()
                .user(cooling("6 minutes")),
            case("at once", "SENT", None).message(),
            case("at once, though low", "SENT", None).message().priority("LOW"),
            case("at once, though the digest is daily", "SENT", None)
                .message()
                .prefers("digest_frequency = 'DAILY'"),
            case("at once, though there shall be no digest", "SENT", None)
                .message()
                .prefers("digest_frequency = 'NEVER'"),
            case("of no thread", "SENT", None).kind("MESSAGE", json!({ "sender_name": "Grace" })),
        ],
    )
    .await;
}

#[tokio::test]
async fn priority_then_frequency_choose_the_way() {
    let mut cases = Vec::new();
    for prefers in [
        "",
        "digest_frequency = 'DAILY'",
        "digest_frequency = 'WEEKLY'",
        "digest_frequency = 'NEVER'",
    ] {
        let bundled = prefers.contains("DAILY") || prefers.contains("WEEKLY");
        cases.push(case(prefers, "SENT", None).prefers(prefers).priority("URGENT"));
        cases.push(case(prefers, "SENT", None).prefers(prefers).priority("HIGH"));
        cases.push(match prefers {
            _ if bundled => case(prefers, "DIGEST", None).prefers(prefers),
            "" => case(prefers, "SENT", None),
            _ => case(prefers, "SKIPPED", "frequency_never").prefers(prefers),
        });
        cases.push(match bundled {
            true => case(prefers, "DIGEST", None).prefers(prefers).priority("LOW"),
            false => case(prefers, "SKIPPED", "in_app_only").prefers(prefers).priority("LOW"),
        });
    }
    hold("priority_then_frequency", cases).await;
}

/// Everything speaks against the mail; then one obstacle after the other goes, in the order of the table.
#[tokio::test]
async fn the_first_match_wins() {
    let world = World::new("the_first_match_wins").await;
    let ann = world.user("Ann").await;
    world
        .prefers(
            &ann,
            "global_unsubscribe = true, license_expiry = false, digest_frequency = 'NEVER'",
        )
        .await;
    for sql in [
        "UPDATE users SET deleted_at = now(), email_verified = NULL WHERE id = $1",
        "INSERT INTO email_suppressions (email, reason, scope) SELECT email, 'MANUAL', 'ALL' FROM users WHERE id = $1",
        "INSERT INTO notification_channel_preferences (user_id, notification_type, channel, enabled) VALUES ($1, 'LICENSE', 'EMAIL', false)",
        "INSERT INTO digest_deliveries (id, user_id, kind, frequency, period_key, status, window_start, window_end, slot_at)
         VALUES ('d1', $1, 'NOTIFICATION', 'DAILY', 'x', 'SENT', now(), now(), now())",
    ] {
        world.execute(sql, &[&ann]).await;
    }
    let mut fact = "UPDATE notifications SET read = true, email_policy = 'NONE' WHERE id = $1";
    let mut digested = true;
    for (reason, then) in [
        ("already_digested", ""),
        ("already_read", ""),
        ("handled_by_producer", ""),
        ("user_inactive", "UPDATE users SET deleted_at = NULL WHERE id = $1"),
        (
            "email_unverified",
            "UPDATE users SET email_verified = now() WHERE id = $1",
        ),
        (
            "manual",
            "DELETE FROM email_suppressions WHERE email = (SELECT email FROM users WHERE id = $1)",
        ),
        (
            "global_unsubscribe",
            "UPDATE email_preferences SET global_unsubscribe = false WHERE user_id = $1",
        ),
        (
            "category_off",
            "UPDATE email_preferences SET license_expiry = true WHERE user_id = $1",
        ),
        (
            "channel_off",
            "DELETE FROM notification_channel_preferences WHERE user_id = $1",
        ),
        (
            "frequency_never",
            "UPDATE email_preferences SET digest_frequency = 'IMMEDIATE' WHERE user_id = $1",
        ),
    ] {
        let id = world.notification(&ann, Notification::default()).await;
        if !fact.is_empty() {
            world.execute(fact, &[&id]).await;
        }
        if digested {
            let item = "INSERT INTO digest_items (kind, item_id, user_id, digest_delivery_id) VALUES ('NOTIFICATION', $1, $2, 'd1')";
            world.execute(item, &[&id, &ann]).await;
        }
        deliver(&world, [&id]).await;
        assert_eq!(world.email_state(&id).await, state("SKIPPED", reason));
        match reason {
            "already_digested" => digested = false,
            "already_read" => fact = "UPDATE notifications SET email_policy = 'NONE' WHERE id = $1",
            "handled_by_producer" => fact = "",
            _ => world.execute(then, &[&ann]).await,
        }
    }
    assert_eq!(
        delivered(&world, &ann, Notification::default()).await,
        state("SENT", None)
    );
}

#[tokio::test]
async fn a_queued_notification_is_taken_up_where_its_delivery_ended() {
    let world = World::new("a_queued_notification_is_taken_up").await;
    let ann = world.user("Ann").await;
    let id = world.notification(&ann, Notification::default()).await;
    let mail = &world.ledger([LedgerRow::payout("ann@example.test").of(&ann)]).await[0];
    world
        .execute(
            "UPDATE email_messages SET notification_id = $2 WHERE id = $1",
            &[mail, &id],
        )
        .await;
    let queue = "UPDATE notifications SET email_state = 'QUEUED', email_message_id = $2 WHERE id = $1";
    world.execute(queue, &[&id, mail]).await;

    deliver(&world, [&id]).await;

    assert_eq!(world.email_state(&id).await, state("SENT", None));
    assert_eq!(world.mailbox.tagged("email_id", mail).len(), 1);
    assert_eq!(world.mailbox.accepted(), 1);
}
