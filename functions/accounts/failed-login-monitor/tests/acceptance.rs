//! `failed-login-monitor`, the built function on a real database.

use serde_json::{Value, json};
use testkit::sweep::report;
use testkit::{World, faults};

const JOB: &str = "failed-login-monitor";

/// Ann, and Eve who answers for security.
const PEOPLE: &str = "
    INSERT INTO users (id, email, name, email_verified, role) VALUES
        ('ann', 'Ann@x.test', 'Ann', now(), 'CREATOR'), ('eve', 'eve@x.test', 'Eve', now(), 'ADMIN')";

async fn world(name: &str) -> World {
    let world = World::new(name).await;
    world.execute(PEOPLE, &[]).await;
    world
}

/// `count` failures of an address from an IP address, spread from one moment to another.
async fn failures(world: &World, email: &str, ip: &str, count: i32, from: &str, to: &str) {
    failures_because(world, email, ip, count, from, to, "INVALID_PASSWORD").await;
}

async fn failures_because(world: &World, email: &str, ip: &str, count: i32, from: &str, to: &str, reason: &str) {
    sqlx::query(
        "INSERT INTO audit_events (action, entity_type, entity_id, email, ip_address, after_state, timestamp)
         SELECT 'LOGIN_FAILED', 'user', 'unknown', $1, $2, jsonb_build_object('reason', $6),
                $4::timestamptz + (i - 1) * ($5::timestamptz - $4::timestamptz) / greatest($3 - 1, 1)
         FROM generate_series(1, $3) i",
    )
    .bind(email)
    .bind(ip)
    .bind(count)
    .bind(
        from.parse::<chrono::DateTime<chrono::Utc>>()
            .expect("the database answers"),
    )
    .bind(
        to.parse::<chrono::DateTime<chrono::Utc>>()
            .expect("the database answers"),
    )
    .bind(reason)
    .execute(&world.db)
    .await
    .expect("the database answers");
}

async fn slot(world: &World, time: &str) -> Value {
    world
        .deliver(
            JOB,
            [json!({"asOf": format!("2025-10-18T{time}:00Z"), "schedule": "tick"})],
        )
        .await;
    Value::from(report(world, JOB).await)
}

async fn alerts(world: &World) -> Vec<String> {
    sqlx::query_scalar("SELECT concat_ws(' ', alert_type, subject, severity, attempts, status) FROM security_alerts ORDER BY alert_type, subject, created_at")
        .fetch_all(&world.db)
        .await
        .expect("the database answers")
}

async fn mails(world: &World) -> Vec<String> {
    sqlx::query_scalar("SELECT template || ' ' || to_email FROM email_messages ORDER BY 1")
        .fetch_all(&world.db)
        .await
        .expect("the database answers")
}

/// Whether Ann is active, and until when she is locked out.
async fn ann(world: &World) -> (bool, Option<String>) {
    sqlx::query_as(
        "SELECT is_active, to_char(locked_until AT TIME ZONE 'UTC', 'MM-DD HH24:MI') FROM users WHERE id = 'ann'",
    )
    .fetch_one(&world.db)
    .await
    .expect("the database answers")
}

const FROM: &str = "2025-10-18T12:01:00Z";
const TO: &str = "2025-10-18T12:14:00Z";

#[tokio::test]
async fn ten_failures_are_nothing_eleven_are_an_alert_and_fifteen_a_lock() {
    for (count, expected) in [
        (
            10,
            json!({"alerts": 0, "newAlerts": 0, "locked": 0, "ipSpray": 0, "told": 0}),
        ),
        (
            11,
            json!({"alerts": 1, "newAlerts": 1, "locked": 0, "ipSpray": 0, "told": 1}),
        ),
        (
            15,
            json!({"alerts": 1, "newAlerts": 1, "locked": 1, "ipSpray": 0, "told": 1}),
        ),
    ] {
        let world = world("logins_thresholds").await;
        failures(&world, "ann@x.test", "192.0.2.1", count, FROM, TO).await;

        assert_eq!(slot(&world, "12:15").await, expected);

        match count {
            10 => assert_eq!((alerts(&world).await, mails(&world).await), (vec![], vec![])),
            11 => {
                assert_eq!(alerts(&world).await, ["failed_logins ann@x.test warning 11 open"]);
                assert_eq!(mails(&world).await, ["security-alert eve@x.test"]);
                assert_eq!(ann(&world).await, (true, None));
            }
            _ => {
                assert_eq!(alerts(&world).await, ["failed_logins ann@x.test critical 15 open"]);
                assert_eq!(
                    mails(&world).await,
                    ["account-locked ann@x.test", "security-alert eve@x.test"]
                );
                assert_eq!(ann(&world).await, (true, Some("10-19 12:15".into())));
                assert_eq!(
                    world
                        .count(
                            "SELECT count(*) FROM audit_events WHERE action = 'ACCOUNT_LOCKED' AND entity_id = 'ann'"
                        )
                        .await,
                    1
                );
            }
        }
    }
}

#[tokio::test]
async fn an_attack_across_two_slots_is_seen_by_the_second() {
    let world = world("logins_two_slots").await;
    failures(
        &world,
        "ann@x.test",
        "192.0.2.1",
        8,
        "2025-10-18T12:07:00Z",
        "2025-10-18T12:14:00Z",
    )
    .await;
    failures(
        &world,
        "ann@x.test",
        "192.0.2.1",
        8,
        "2025-10-18T12:16:00Z",
        "2025-10-18T12:22:00Z",
    )
    .await;

    assert_eq!(slot(&world, "12:15").await["alerts"], 0);
    assert_eq!(slot(&world, "12:30").await["locked"], 1);
    assert_eq!(alerts(&world).await, ["failed_logins ann@x.test critical 16 open"]);
    assert_eq!(ann(&world).await, (true, Some("10-19 12:30".into())));
}

#[tokio::test]
async fn an_address_is_the_same_however_it_is_spelt() {
    let world = world("logins_spelling").await;
    failures(&world, "ANN@x.test", "192.0.2.1", 8, FROM, TO).await;
    failures(&world, " ann@X.TEST ", "192.0.2.2", 7, FROM, TO).await;

    assert_eq!(slot(&world, "12:15").await["locked"], 1);
}

#[tokio::test]
async fn a_slot_that_comes_again_makes_no_second_alert_lock_or_mail() {
    let world = world("logins_again").await;
    failures(&world, "ann@x.test", "192.0.2.1", 15, FROM, TO).await;
    slot(&world, "12:15").await;
    let state = (alerts(&world).await, mails(&world).await, ann(&world).await);

    // Not by the schedule: as a run of its own.
    world.deliver(JOB, [json!({"asOf": "2025-10-18T12:15:00Z"})]).await;

    assert_eq!(report(&world, JOB).await["newAlerts"], 0);
    assert_eq!((alerts(&world).await, mails(&world).await, ann(&world).await), state);
}

#[tokio::test]
async fn one_address_that_tries_many_accounts_is_told_of_and_locks_nobody() {
    let world = world("logins_spray").await;
    for n in 0..5 {
        failures(&world, &format!("u{n}@x.test"), "192.0.2.9", 4, FROM, TO).await;
    }

    assert_eq!(
        slot(&world, "12:15").await,
        json!({"alerts": 1, "newAlerts": 1, "locked": 0, "ipSpray": 1, "told": 1})
    );
    assert_eq!(alerts(&world).await, ["ip_spray 192.0.2.9 critical 20 open"]);
}

#[tokio::test]
async fn a_third_party_cannot_prolong_a_lock_out_with_attempts_that_led_to_it_or_were_refused_for_it() {
    let world = world("logins_prolong").await;
    failures(
        &world,
        "ann@x.test",
        "192.0.2.1",
        20,
        "2025-10-18T12:10:00Z",
        "2025-10-18T12:14:50Z",
    )
    .await;
    slot(&world, "12:15").await;
    failures_because(
        &world,
        "ann@x.test",
        "192.0.2.1",
        40,
        "2025-10-18T12:16:00Z",
        "2025-10-18T12:44:00Z",
        "ACCOUNT_LOCKED",
    )
    .await;

    assert_eq!(slot(&world, "12:30").await["locked"], 0);
    assert_eq!(slot(&world, "12:45").await["locked"], 0);

    assert_eq!(ann(&world).await, (true, Some("10-19 12:15".into())));
    assert_eq!(
        mails(&world).await,
        ["account-locked ann@x.test", "security-alert eve@x.test"]
    );
}

#[tokio::test]
async fn a_longer_lock_stays_a_shorter_one_is_lengthened_and_who_is_deleted_or_unknown_is_only_told_of() {
    let world = world("logins_locked_already").await;
    let users = "INSERT INTO users (id, email, locked_until, lock_reason, deleted_at) VALUES
        ('long', 'long@x.test', '2025-10-30T00:00:00Z', 'administrator', NULL), ('short', 'short@x.test', '2025-10-18T12:45:00Z', 'failed_logins', NULL),
        ('gone', 'gone@x.test', NULL, NULL, '2025-10-01T00:00:00Z')";
    world.execute(users, &[]).await;
    for email in ["long@x.test", "short@x.test", "gone@x.test", "nobody@x.test"] {
        failures(&world, email, "192.0.2.1", 15, FROM, TO).await;
    }

    assert_eq!(slot(&world, "12:15").await["locked"], 1);

    let locks: Vec<String> = sqlx::query_scalar("SELECT concat_ws(' ', id, to_char(locked_until AT TIME ZONE 'UTC', 'MM-DD HH24:MI')) FROM users WHERE role = 'VIEWER' ORDER BY id")
        .fetch_all(&world.db)
        .await
        .expect("the database answers");
    assert_eq!(locks, ["gone", "long 10-30 00:00", "short 10-19 12:15"]);
    assert_eq!(alerts(&world).await.len(), 4);
}

#[tokio::test]
async fn an_alert_that_was_not_seen_for_an_hour_is_over_and_the_next_one_is_new() {
    let world = world("logins_new_alert").await;
    failures(&world, "ann@x.test", "192.0.2.1", 11, FROM, TO).await;
    failures(
        &world,
        "ann@x.test",
        "192.0.2.1",
        12,
        "2025-10-18T12:46:00Z",
        "2025-10-18T12:59:00Z",
    )
    .await;
    failures(
        &world,
        "ann@x.test",
        "192.0.2.1",
        13,
        "2025-10-18T14:31:00Z",
        "2025-10-18T14:44:00Z",
    )
    .await;

    let new: Vec<_> = [
        slot(&world, "12:15").await,
        slot(&world, "13:00").await,
        slot(&world, "14:45").await,
    ]
    .map(|report| report["newAlerts"].clone())
    .into();

    assert_eq!(new, [1, 0, 1]);
    assert_eq!(
        alerts(&world).await,
        [
            "failed_logins ann@x.test warning 12 resolved",
            "failed_logins ann@x.test warning 13 open"
        ]
    );
    assert_eq!(mails(&world).await.len(), 2);
}

#[tokio::test]
async fn a_dry_run_counts_and_changes_nothing() {
    let world = world("logins_dry").await;
    failures(&world, "ann@x.test", "192.0.2.1", 15, FROM, TO).await;

    world
        .deliver(JOB, [json!({"asOf": "2025-10-18T12:15:00Z", "dryRun": true})])
        .await;

    let report = report(&world, JOB).await;
    assert_eq!((&report["alerts"], &report["locked"]), (&json!(1), &json!(1)));
    assert_eq!(
        (alerts(&world).await, mails(&world).await, ann(&world).await),
        (vec![], vec![], (true, None))
    );
}

#[tokio::test]
async fn who_answers_for_security_is_configured() {
    let world = world("logins_recipients").await;
    world.set("SECURITY_EMAIL", "sec@x.test, SOC@x.test");
    failures(&world, "ann@x.test", "192.0.2.1", 11, FROM, TO).await;

    slot(&world, "12:15").await;

    assert_eq!(
        mails(&world).await,
        ["security-alert sec@x.test", "security-alert soc@x.test"]
    );
}

#[tokio::test]
async fn two_at_once_lock_once() {
    let world = world("logins_two").await;
    world.scale(JOB, 2);
    failures(&world, "ann@x.test", "192.0.2.1", 15, FROM, TO).await;

    world
        .deliver(
            JOB,
            [
                json!({"asOf": "2025-10-18T12:15:00Z"}),
                json!({"asOf": "2025-10-18T12:15:00Z"}),
            ],
        )
        .await;

    assert_eq!(alerts(&world).await, ["failed_logins ann@x.test critical 15 open"]);
    assert_eq!(
        mails(&world).await,
        ["account-locked ann@x.test", "security-alert eve@x.test"]
    );
    assert_eq!(
        world
            .count("SELECT count(*) FROM audit_events WHERE action = 'ACCOUNT_LOCKED'")
            .await,
        1
    );
}

#[tokio::test]
async fn whatever_fails_there_is_one_alert_one_lock_and_one_mail_each() {
    faults::everywhere("logins_faults", async |world| {
        world.execute(PEOPLE, &[]).await;
        // At the end of the window: faults make time pass, and it must not leave the window by that.
        let attack = "
            INSERT INTO audit_events (action, entity_type, entity_id, email, ip_address, timestamp)
            SELECT 'LOGIN_FAILED', 'user', 'unknown', 'ann@x.test', '192.0.2.1', '2025-10-18T12:14:00Z'::timestamptz + i * interval '1 second'
            FROM generate_series(1, 15) i";
        world.execute(attack, &[]).await;

        world.deliver(JOB, [json!({"asOf": "2025-10-18T12:15:00Z"})]).await;

        assert_eq!(alerts(world).await, ["failed_logins ann@x.test critical 15 open"]);
        assert_eq!(mails(world).await, ["account-locked ann@x.test", "security-alert eve@x.test"]);
        assert_eq!(world.count("SELECT count(*) FROM audit_events WHERE action = 'ACCOUNT_LOCKED'").await, 1);
        assert_eq!(world.dead_letters(JOB), []);
    })
    .await;
}
