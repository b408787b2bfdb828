//! `job-history-cleanup`, the built function on a real database.

use serde_json::json;
use testkit::World;
use testkit::sweep::{Sweep, report};

const JOB: &str = "job-history-cleanup";

/// Runs, messages and leases named for what becomes of them. What is declared: completed runs a week, failed ones 30 days.
const GIVEN: &str = "
    INSERT INTO job_runs (job, run_key, status, trigger, first_seen_at, started_at, finished_at, lease_until)
    SELECT job, key, status, 'message', now() - age, now() - age, CASE WHEN status <> 'running' THEN now() - age END,
           CASE WHEN status = 'running' THEN now() - age END
    FROM (VALUES
        ('email-dispatch', 'gone_done',      'done',      interval '7 days 1 minute'),
        ('email-dispatch', 'gone_skipped',   'skipped',   interval '8 days'),
        ('email-dispatch', 'gone_continued', 'continued', interval '9 days'),
        ('email-dispatch', 'kept_done',      'done',      interval '6 days'),
        ('email-dispatch', 'kept_dead',      'dead',      interval '29 days'),
        ('email-dispatch', 'gone_dead',      'dead',      interval '30 days 1 minute'),
        ('email-dispatch', 'kept_running',   'running',   interval '29 days'),
        ('email-dispatch', 'kept_retrying',  'retrying',  interval '29 days'),
        ('email-dispatch', 'gone_running',   'running',   interval '31 days'),
        ('no-such-job',    'gone_unknown',   'done',      interval '10 days'),
        ('no-such-job',    'kept_unknown',   'done',      interval '6 days')) AS r (job, key, status, age);
    INSERT INTO outbox (queue, body, created_at) VALUES
        ('email-dispatch', 'gone', now() - interval '31 days'), ('email-dispatch', 'kept', now() - interval '29 days'),
        ('email-dispatch-dlq', 'gone', now() - interval '32 days'), ('no-such-job', 'gone', now() - interval '31 days');
    INSERT INTO exclusive_leases VALUES ('gone', 'x', now() - interval '2 days'), ('kept', 'x', now() - interval '1 hour')";

const STATE: &str = "
    SELECT (SELECT string_agg(run_key, ' ' ORDER BY run_key) FROM job_runs WHERE job <> 'job-history-cleanup')
        || ' outbox: ' || (SELECT string_agg(body, ' ') FROM outbox) || ' leases: ' || (SELECT string_agg(key, ' ' ORDER BY key) FROM exclusive_leases)";

fn sweep() -> Sweep<'static> {
    Sweep {
        job: JOB,
        given: GIVEN,
        state: STATE,
        swept: "kept_dead kept_done kept_retrying kept_running kept_unknown outbox: kept leases: kept",
        report: json!({"completed": 4, "failed": 2, "undeliverable": 3, "leases": 1}),
        shared: &["completed", "failed", "undeliverable", "leases"],
        page: 2,
    }
}

#[tokio::test]
async fn it_sweeps_page_by_page_twice_in_parallel_and_dry() {
    sweep().keeps_its_promises().await;
}

#[tokio::test]
async fn whatever_fails_each_run_is_forgotten_once() {
    let few = Sweep {
        given: "INSERT INTO job_runs (job, run_key, status, trigger, first_seen_at, started_at, finished_at)
                VALUES ('job-history-cleanup', 'gone', 'done', 'schedule', now(), now() - interval '8 days', now() - interval '8 days');
                INSERT INTO outbox (queue, body, created_at)
                VALUES ('x', 'gone', now() - interval '31 days'), ('x', 'kept', now() - interval '29 days')",
        state: "SELECT (SELECT count(*) FROM job_runs WHERE run_key = 'gone') || (SELECT string_agg(body, ' ') FROM outbox)",
        swept: "0kept",
        report: json!({"completed": 1, "failed": 0, "undeliverable": 1, "leases": 0}),
        page: 10,
        ..sweep()
    };
    few.survives_every_fault(&["#leases"]).await;
}

#[tokio::test]
async fn each_job_has_the_retention_that_it_declares() {
    let world = World::new("history_of_its_own").await;
    // The relay runs every minute: its successes are worth a day.
    let runs = "
        INSERT INTO job_runs (job, run_key, status, trigger, first_seen_at, started_at, finished_at)
        SELECT job, job || '_' || hours, 'done', 'schedule', now(), now() - hours * interval '1 hour', now() - hours * interval '1 hour'
        FROM unnest(ARRAY['outbox-relay', 'idempotency-cleanup']) job, unnest(ARRAY[23, 25, 167, 169]) hours";
    world.execute(runs, &[]).await;

    world.deliver(JOB, [json!({})]).await;

    let left: String = sqlx::query_scalar(
        "SELECT string_agg(run_key, ' ' ORDER BY started_at, run_key) FROM job_runs WHERE job <> $1",
    )
    .bind(JOB)
    .fetch_one(&world.db)
    .await
    .unwrap();
    assert_eq!(
        left,
        "idempotency-cleanup_167 idempotency-cleanup_25 idempotency-cleanup_23 outbox-relay_23"
    );
    assert_eq!(report(&world, JOB).await["completed"], 4);
}
