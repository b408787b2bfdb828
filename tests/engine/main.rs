//! Black box: messages into real queues, a look at the database, the mailbox and the DLQ. The local engine must be up.

mod deployment;

use std::collections::HashMap;
use std::time::Duration;

use deployment::{Deployment, until};
use serde_json::json;

const NOTIFICATIONS: usize = 5_000;

/// One user a notification, so that an address tells which mail came. Every tenth user wants a daily digest, in three hours. SES allows as much as
/// an account that is out of the sandbox gets on asking.
const DATA: &str = "
    INSERT INTO users (id, email, name, email_verified)
    SELECT 'u' || i, 'user' || i || '@example.test', 'User ' || i, now() FROM generate_series(1, 5000) i;
    INSERT INTO email_preferences (user_id, digest_frequency, digest_hour)
    SELECT 'u' || i, 'DAILY', (extract(hour FROM now() AT TIME ZONE 'UTC') + 3)::int % 24 FROM generate_series(1, 5000) i WHERE i % 10 = 0;
    INSERT INTO notifications (id, user_id, type, title, message, priority)
    SELECT 'n' || i, 'u' || i, 'PROJECT', 'Title ' || i, 'Text ' || i, 'MEDIUM' FROM generate_series(1, 5000) i;
    UPDATE email_sending_state SET max_send_rate = 1000, fetched_at = now() + interval '1 day';";

async fn count(deployment: &Deployment, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql)
        .fetch_one(&deployment.db)
        .await
        .expect("a count")
}

/// How many mails each address got.
async fn mailed(deployment: &Deployment) -> HashMap<String, u32> {
    let mut counts = HashMap::new();
    for mail in deployment.mails().await {
        for address in mail["To"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|address| address.as_str())
        {
            *counts.entry(address.to_owned()).or_default() += 1;
        }
    }
    counts
}

/// What SES publishes when it has taken a mail.
fn sent_event(id: &str, address: &str) -> String {
    json!({
        "eventType": "Send",
        "mail": {
            "messageId": format!("ses-{id}"),
            "timestamp": "2026-01-31T12:00:00.000Z",
            "destination": [address],
            "tags": {"email_id": [id]},
        },
        "send": {},
    })
    .to_string()
}

#[tokio::test]
async fn five_thousand_notifications_arrive_once_though_every_function_is_killed_every_second() {
    let deployment = Deployment::new("killed").await;
    sqlx::raw_sql(DATA).execute(&deployment.db).await.unwrap();
    let bodies: Vec<_> = (1..=NOTIFICATIONS)
        .map(|n| json!({"notificationId": format!("n{n}")}).to_string())
        .collect();
    let settled = "SELECT count(*) FROM notifications WHERE email_state IN ('SENT', 'DIGEST')";
    let handled = "SELECT count(*) FROM notifications WHERE email_state <> 'PENDING'";
    let kill = async {
        let mut killed = 0;
        let mut second = tokio::time::interval(Duration::from_secs(1));
        while count(&deployment, handled).await < NOTIFICATIONS as i64 / 2 {
            second.tick().await;
            killed += deployment.kill_functions();
        }
        killed
    };
    // The functions are at work while messages still come.
    let ((), killed) = tokio::join!(deployment.send("notification-delivery", &bodies), kill);
    assert!(killed > 0, "nothing was running that could be killed");

    // What was killed comes back at the end of its visibility timeout, three minutes after it was received.
    let open = "SELECT count(*) FROM notifications n LEFT JOIN email_messages m ON m.id = n.email_message_id
                WHERE n.email_state IN ('PENDING', 'QUEUED') AND m.status IS DISTINCT FROM 'UNCERTAIN'";
    until(
        "every notification is delivered",
        Duration::from_secs(420),
        async || deployment.depth("notification-delivery").await == 0 && count(&deployment, open).await == 0,
    )
    .await;

    let mailed = mailed(&deployment).await;
    let twice: Vec<_> = mailed.iter().filter(|(_, n)| **n > 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
    // A call that was begun when its process died is in doubt and marked so; SES's event about it settles it.
    let doubtful: Vec<(String, String)> =
        sqlx::query_as("SELECT id, to_email FROM email_messages WHERE status = 'UNCERTAIN'")
            .fetch_all(&deployment.db)
            .await
            .unwrap();
    let left = doubtful.iter().filter(|(_, address)| mailed.contains_key(address));
    let events: Vec<_> = left.map(|(id, address)| sent_event(id, address)).collect();
    deployment.send("email-events", &events).await;
    let lost = (doubtful.len() - events.len()) as i64;
    let uncertain = "SELECT count(*) FROM email_messages WHERE status = 'UNCERTAIN'";
    until("the events are settled", Duration::from_secs(60), async || {
        deployment.depth("email-events").await == 0 && count(&deployment, uncertain).await == lost
    })
    .await;
    println!(
        "{killed} processes killed; {} mails were in doubt, {lost} of them never left",
        doubtful.len()
    );
    assert!(
        lost <= killed as i64,
        "{lost} mails never left after {killed} kills: more than one a process"
    );
    let delivered = count(&deployment, settled).await;
    assert_eq!(delivered + lost, NOTIFICATIONS as i64);
    assert_eq!(delivered, mailed.len() as i64 + NOTIFICATIONS as i64 / 10);
    assert_eq!(
        count(
            &deployment,
            "SELECT count(*) FROM notifications WHERE in_app_at IS NULL"
        )
        .await,
        0
    );
    assert_eq!(
        count(
            &deployment,
            "SELECT count(*) FROM job_runs WHERE job = 'notification-delivery' AND status = 'running'"
        )
        .await,
        0
    );
    assert_eq!(deployment.depth("notification-delivery-dlq").await, 0);
}

#[tokio::test]
async fn a_message_nobody_can_read_ends_in_the_dlq_with_a_reason_that_a_person_understands() {
    let deployment = Deployment::new("unreadable").await;
    let bodies = [
        "no json".to_owned(),
        json!({"notificationID": "n1"}).to_string(),
        json!({"notificationId": "nobody"}).to_string(),
    ];
    deployment.send("notification-delivery", &bodies).await;

    until("the messages are settled", Duration::from_secs(60), async || {
        let settled = count(
            &deployment,
            "SELECT count(*) FROM job_runs WHERE status IN ('dead', 'skipped')",
        )
        .await;
        settled == 3 && deployment.depth("notification-delivery").await == 0
    })
    .await;

    assert_eq!(deployment.depth("notification-delivery-dlq").await, 2);
    let (body, attributes) = deployment.peek("notification-delivery-dlq").await;
    assert!(bodies.contains(&body), "{body}");
    let reason = &attributes["reason"];
    assert!(
        reason.contains("not JSON") || reason.contains("missing field `notificationId`"),
        "{reason}"
    );
    for name in ["job", "runKey", "error", "attempts", "firstSeenAt", "lastFailedAt"] {
        assert!(attributes.contains_key(name), "no {name} in {attributes:?}");
    }
}

#[tokio::test]
async fn a_lost_message_is_enqueued_again_by_the_schedule() {
    let deployment = Deployment::new("lost").await;
    let data = DATA.replace("5000", "1");
    sqlx::raw_sql(sqlx::AssertSqlSafe(data))
        .execute(&deployment.db)
        .await
        .unwrap();
    sqlx::raw_sql("UPDATE notifications SET created_at = now() - interval '6 minutes'")
        .execute(&deployment.db)
        .await
        .unwrap();

    until(
        "the schedule finds the notification",
        Duration::from_secs(150),
        async || {
            count(
                &deployment,
                "SELECT count(*) FROM notifications WHERE email_state = 'SENT'",
            )
            .await
                == 1
        },
    )
    .await;

    assert_eq!(mailed(&deployment).await.len(), 1);
}

#[tokio::test]
async fn a_click_on_the_link_of_a_mail_and_a_bounce_on_the_topic_each_stop_the_next_mail() {
    let deployment = Deployment::new("feedback").await;
    let data = DATA.replace("5000", "2").replace("i % 10 = 0", "false");
    sqlx::raw_sql(sqlx::AssertSqlSafe(data))
        .execute(&deployment.db)
        .await
        .unwrap();
    let notify = async |id: String| {
        let body = json!({ "notificationId": id }).to_string();
        deployment.send("notification-delivery", &[body]).await;
    };
    for n in 1..=2 {
        notify(format!("n{n}")).await;
    }
    until("both are mailed", Duration::from_secs(60), async || {
        mailed(&deployment).await.len() == 2
    })
    .await;
    let mails = deployment.mails().await;
    let link = mails.iter().find_map(|mail| {
        let is_first = mail["To"][0] == "user1@example.test";
        let text = mail["BodyText"].as_str().filter(|_| is_first)?;
        text.lines().find_map(|line| line.strip_prefix("Unsubscribe: "))
    });
    let (_, token) = link.expect("a link").trim().rsplit_once('/').expect("a token");

    assert_eq!(
        deployment
            .post("unsubscribe", token, "List-Unsubscribe=One-Click")
            .await,
        200
    );
    let second: String = sqlx::query_scalar("SELECT email_message_id FROM notifications WHERE id = 'n2'")
        .fetch_one(&deployment.db)
        .await
        .unwrap();
    let bounce = json!({
        "eventType": "Bounce",
        "mail": {
            "messageId": "ses-2", "timestamp": "2026-01-31T12:00:00.000Z", "destination": ["user2@example.test"], "tags": {"email_id": [second]},
        },
        "bounce": {
            "bounceType": "Permanent", "bounceSubType": "NoEmail", "timestamp": "2026-01-31T12:00:01.000Z", "feedbackId": "f2",
            "bouncedRecipients": [{"emailAddress": "user2@example.test"}],
        },
    });
    deployment.publish("mail-feedback", &bounce.to_string()).await;
    let heard = "SELECT (SELECT count(*) FROM email_suppressions WHERE email = 'user2@example.test')
                      + (SELECT count(*) FROM email_preferences WHERE user_id = 'u1' AND NOT project_invitations)";
    until("both are heard", Duration::from_secs(60), async || {
        count(&deployment, heard).await == 2
    })
    .await;

    let next = "INSERT INTO notifications (id, user_id, type, title, message, priority)
                SELECT 'next' || i, 'u' || i, 'PROJECT', 'Title', 'Text', 'MEDIUM' FROM generate_series(1, 2) i";
    sqlx::raw_sql(next).execute(&deployment.db).await.unwrap();
    for n in 1..=2 {
        notify(format!("next{n}")).await;
    }
    let settled =
        "SELECT count(*) FROM notifications WHERE id LIKE 'next%' AND email_state NOT IN ('PENDING', 'QUEUED')";
    until("the next ones are settled", Duration::from_secs(60), async || {
        count(&deployment, settled).await == 2
    })
    .await;
    let why: Vec<String> =
        sqlx::query_scalar("SELECT email_state_reason FROM notifications WHERE id LIKE 'next%' ORDER BY id")
            .fetch_all(&deployment.db)
            .await
            .unwrap();
    assert_eq!(why, ["category_off", "bounce"]);
    assert_eq!(mailed(&deployment).await.values().sum::<u32>(), 2);
}
