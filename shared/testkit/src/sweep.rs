//! What every sweep must do, whatever it sweeps.

use serde_json::{Map, Value, json};
use sqlx::AssertSqlSafe;

use crate::{World, faults};

/// A sweep and something to sweep.
#[derive(Clone, Debug)]
pub struct Sweep<'a> {
    /// The job.
    pub job: &'a str,
    /// SQL that makes rows, some of them dead; none was dead a week ago.
    pub given: &'a str,
    /// SQL for one text that tells of everything that the sweep may change.
    pub state: &'a str,
    /// That text in the end.
    pub swept: &'a str,
    /// What the sweep reports, `asOf` apart.
    pub report: Value,
    /// The numbers in it that two sweeps at once share.
    pub shared: &'a [&'a str],
    /// The smallest page that the job allows.
    pub page: u32,
}

impl Sweep<'_> {
    /// A slot of last week and a dry run change nothing; a chain of runs of one page each sweeps everything; a second sweep and
    /// two at once do what one does.
    ///
    /// # Panics
    ///
    /// When one of this is not so.
    pub async fn keeps_its_promises(&self) {
        let world = World::new(&format!("{}_alone", self.job)).await;
        self.make(&world).await;
        let before = self.state(&world).await;
        assert_ne!(before, self.swept, "there is nothing to sweep");

        let last_week: String = text(
            &world,
            "SELECT to_char(now() AT TIME ZONE 'UTC' - interval '7 days', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')",
        )
        .await;
        self.sweep(&world, json!({ "asOf": last_week })).await;
        assert_eq!(self.state(&world).await, before, "a slot of last week");

        let mut counted = self
            .sweep(&world, json!({ "dryRun": true, "batchSize": self.page }))
            .await;
        assert_eq!(counted.remove("dryRun"), Some(true.into()));
        assert_eq!(self.state(&world).await, before, "a dry run");
        assert_eq!(Value::from(counted), self.report, "a dry run counts what a sweep does");

        let report = self.sweep(&world, json!({ "batchSize": self.page, "pages": 1 })).await;
        let continued = "SELECT count(*)::text FROM job_runs WHERE status = 'continued' AND trigger = 'continuation'";
        assert_ne!(text(&world, continued).await, "0", "there is one page only");
        assert_eq!(self.state(&world).await, self.swept, "a chain of runs of one page each");
        assert_eq!(Value::from(report), self.report, "the last run reports for all of them");

        let report = self.sweep(&world, json!({})).await;
        assert_eq!(self.state(&world).await, self.swept, "a second sweep");
        for name in self.shared {
            assert_eq!(report[*name], 0, "a second sweep finds nothing: {report:?}");
        }

        let world = World::new(&format!("{}_twice", self.job)).await;
        world.scale(self.job, 2);
        self.make(&world).await;
        world
            .deliver(
                self.job,
                [json!({ "batchSize": self.page }), json!({ "batchSize": self.page })],
            )
            .await;
        assert_eq!(self.state(&world).await, self.swept, "two sweeps at once");
        let reports: Vec<Value> = sqlx::query_scalar("SELECT report FROM job_runs WHERE job = $1 AND status = 'done'")
            .bind(self.job)
            .fetch_all(&world.db)
            .await
            .expect("the ledger");
        for name in self.shared {
            let sum: i64 = reports.iter().filter_map(|report| report[name].as_i64()).sum();
            assert_eq!(
                Some(sum),
                self.report[name].as_i64(),
                "two sweeps at once share {name}: {reports:?}"
            );
        }
    }

    /// Whatever fails at whatever call, everything is swept in the end, and the report counts each row once. Steps may be left out:
    /// one more is twenty cases more, and they all go the same way.
    ///
    /// # Panics
    ///
    /// When that is not so.
    pub async fn survives_every_fault(&self, without: &[&str]) {
        let steps: Map<_, _> = without.iter().map(|step| ((*step).to_owned(), "done".into())).collect();
        let message = json!({ "batchSize": self.page, "cursor": { "steps": steps } });
        faults::everywhere(&format!("{}_faults", self.job), async |world| {
            self.make(world).await;
            let report = self.sweep(world, message.clone()).await;
            assert_eq!(self.state(world).await, self.swept);
            assert_eq!(Value::from(report), self.report);
        })
        .await;
    }

    async fn make(&self, world: &World) {
        sqlx::raw_sql(AssertSqlSafe(self.given))
            .execute(&world.db)
            .await
            .expect("rows that fit");
    }

    async fn state(&self, world: &World) -> String {
        text(world, self.state).await
    }

    /// The report of the last run.
    async fn sweep(&self, world: &World, message: Value) -> Map<String, Value> {
        world.deliver(self.job, [message]).await;
        report(world, self.job).await
    }
}

/// What a job's last run reports, `asOf` apart.
///
/// # Panics
///
/// When no run is done, or one is dead.
pub async fn report(world: &World, job: &str) -> Map<String, Value> {
    assert_eq!(world.dead_letters(job), []);
    let report = "SELECT report FROM job_runs WHERE job = $1 AND status = 'done' ORDER BY finished_at DESC LIMIT 1";
    let report: Value = sqlx::query_scalar(report)
        .bind(job)
        .fetch_one(&world.db)
        .await
        .expect("a run that is done");
    let Value::Object(mut report) = report else {
        panic!("{report} is no report")
    };
    assert!(report.remove("asOf").is_some(), "the slot is in the report");
    report
}

async fn text(world: &World, sql: &str) -> String {
    let text: Option<String> = sqlx::query_scalar(AssertSqlSafe(sql))
        .fetch_one(&world.db)
        .await
        .expect("one text");
    text.unwrap_or_default()
}
