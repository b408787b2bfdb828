//! Numbers that must fit together, proved on the declarations before anything is deployed (design, section 6).

use std::collections::HashSet;
use std::time::Duration;

use crate::message::Timestamp;
use crate::spec::{Backoff, Spec, Use, days, minutes, secs};

/// What the platform bears.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections that the database accepts from functions.
    pub database_connections: u32,
}

impl Default for Limits {
    /// Aurora Serverless v2 at 4 ACU accepts about 800; a fifth stays for people and migrations.
    fn default() -> Self {
        Self {
            database_connections: 640,
        }
    }
}

/// A rule that a declaration breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The job, or `*` for a rule over all of them.
    pub job: String,
    /// What is wrong, with the numbers.
    pub what: String,
}

/// Proves the rules on `specs`; empty means that everything fits.
pub fn check(specs: &[&Spec], limits: Limits) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut names = HashSet::new();
    for spec in specs {
        let mut expect = |holds: bool, what: String| {
            if !holds {
                findings.push(Finding {
                    job: spec.name().to_owned(),
                    what,
                });
            }
        };
        let name_fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        expect(names.insert(spec.name()), "the name is declared twice".into());
        expect(
            !spec.domain().is_empty() && !spec.name().is_empty(),
            "the path is not <domain>/<job>".into(),
        );
        expect(
            spec.name().len() <= 48 && spec.name().chars().all(name_fits),
            "the name is not 1-48 of a-z, 0-9 and -".into(),
        );
        expect(!spec.about.is_empty(), "nothing says what the job does".into());
        durations(spec, &mut expect);
        queue(spec, specs, &mut expect);
        schedules(spec, &mut expect);
    }
    let connections: u32 = specs
        .iter()
        .filter(|s| s.uses.contains(&Use::Database))
        .map(|s| s.concurrency * s.connections)
        .sum();
    if connections > limits.database_connections {
        let what = format!(
            "all functions together may open {connections} connections; the database takes {}",
            limits.database_connections
        );
        findings.push(Finding { job: "*".into(), what });
    }
    findings
}

fn durations(spec: &Spec, expect: &mut impl FnMut(bool, String)) {
    expect(
        spec.timeout >= secs(3) && spec.timeout <= minutes(15),
        format!("a timeout of {:?} is not between 3 s and 15 min", spec.timeout),
    );
    expect(
        spec.visibility_timeout() >= spec.timeout * 6 + spec.window && spec.visibility_timeout() <= Backoff::LONGEST,
        format!(
            "a visibility timeout of {:?} is below 6 timeouts and the window, or above 12 h",
            spec.visibility_timeout()
        ),
    );
    expect(
        spec.lease() > spec.timeout,
        "the lease ends before the function must".into(),
    );
    expect(
        spec.lease() < spec.visibility_timeout(),
        "a message comes back before the lease of its crashed attempt has ended".into(),
    );
    expect(
        spec.minimum < spec.timeout / 2,
        format!("a minimum of {:?} leaves no time to work", spec.minimum),
    );
    let waits: Duration = (1..spec.attempts).map(|attempt| spec.backoff.wait(attempt, 1.0)).sum();
    expect(
        waits + spec.visibility_timeout() * spec.crashes() < spec.retention(),
        format!("all attempts take {waits:?} of waiting, longer than a message is kept"),
    );
    let history = spec.history;
    expect(
        (days(1)..=days(30)).contains(&history.completed),
        format!("completed runs are kept {:?}, not a day to 30 days", history.completed),
    );
    expect(
        (days(7)..=days(30)).contains(&history.failed),
        format!("failed runs are kept {:?}, not 7 to 30 days", history.failed),
    );
    let shortest = spec.backoff.wait(1, 0.0);
    expect(
        shortest >= secs(1),
        format!("a wait of {shortest:?} is below a second, SQS's unit"),
    );
}

fn queue(spec: &Spec, specs: &[&Spec], expect: &mut impl FnMut(bool, String)) {
    expect(
        (1..=20).contains(&spec.attempts),
        format!("{} attempts are not between 1 and 20", spec.attempts),
    );
    expect(
        spec.max_receive_count() >= 3 * spec.attempts && spec.max_receive_count() >= 10,
        format!(
            "{} receives are no tripwire for {} attempts",
            spec.max_receive_count(),
            spec.attempts
        ),
    );
    expect(
        (2..=1000).contains(&spec.concurrency),
        format!(
            "a concurrency of {} is not between 2 and 1000, what SQS allows",
            spec.concurrency
        ),
    );
    expect(
        (1..=10_000).contains(&spec.batch),
        format!("a batch of {} is not between 1 and 10000", spec.batch),
    );
    expect(
        spec.batch <= 10 || spec.window >= secs(1),
        format!("a batch of {} needs a window of at least a second", spec.batch),
    );
    expect(
        spec.window <= minutes(5),
        format!("a window of {:?} is above 5 min", spec.window),
    );
    expect(
        spec.dead_letter_retention() >= spec.retention() && spec.dead_letter_retention() == minutes(14 * 24 * 60),
        "dead letters are kept shorter than messages, or not 14 days".into(),
    );
    expect(
        spec.window < spec.priority.oldest_message(),
        "the batch window alone breaks the queue-age objective".into(),
    );
    let bears = f64::from(spec.concurrency * spec.batch) / spec.load.batch_takes.as_secs_f64().max(0.001);
    expect(
        bears >= f64::from(spec.load.messages_per_second) || !spec.schedules.is_empty(),
        format!(
            "{} messages a second come, {bears:.0} can be handled: the queue-age objective is out of reach",
            spec.load.messages_per_second
        ),
    );
    expect(
        spec.load.batch_takes <= spec.timeout,
        "a full batch takes longer than the timeout".into(),
    );
    for target in spec.sends_to {
        expect(
            *target == "*" || specs.iter().any(|s| s.name() == *target),
            format!("sends to `{target}`, which is no job"),
        );
    }
    expect(
        !spec.awaits_function || spec.schedules.is_empty() && spec.topics.is_empty(),
        "it awaits its function, and something sends without end".into(),
    );
    expect(
        spec.connections >= 2,
        format!("{} connections: the ledger needs one of its own", spec.connections),
    );
    expect(
        (128..=10_240).contains(&spec.memory_mb),
        format!("{} MB are not between 128 and 10240", spec.memory_mb),
    );
}

fn schedules(spec: &Spec, expect: &mut impl FnMut(bool, String)) {
    let mut names = HashSet::new();
    for schedule in spec.schedules {
        let name = schedule.name;
        expect(names.insert(name), format!("schedule `{name}` is declared twice"));
        expect(
            schedule.cron.fields.split_whitespace().count() == 6,
            format!("schedule `{name}`: not six fields: {}", schedule.cron.fields),
        );
        let slot = Timestamp::UNIX_EPOCH.to_rfc3339();
        if let Err(reason) = (spec.accepts)(schedule.body(&slot)) {
            expect(
                false,
                format!("schedule `{name}` sends what its own job refuses: {reason}"),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Cron, Job, Schedule};
    use crate::{DeliverNotification, RelayOutbox, catalog};

    const THREE_FIELDS: &[Schedule] = &[Schedule {
        name: "t",
        cron: Cron::utc("* * *"),
        message: "{}",
    }];
    const EVERY_MINUTE: &[Schedule] = &[Schedule {
        name: "t",
        cron: Cron::utc("* * * * ? *"),
        message: "{}",
    }];

    fn findings(spec: &Spec) -> String {
        check(&[spec], Limits::default())
            .into_iter()
            .map(|f| f.what + "\n")
            .collect()
    }

    #[test]
    fn the_catalog_fits() {
        assert_eq!(check(catalog::ALL, Limits::default()), []);
    }

    #[test]
    fn every_rule_can_fail() {
        let job = || Job::<RelayOutbox>::new("a/b").about("x");
        assert_eq!(findings(job().spec()), "");
        for (spec, says) in [
            (Job::<RelayOutbox>::new("b").about("x"), "not <domain>/<job>"),
            (Job::<RelayOutbox>::new("a/B").about("x"), "a-z"),
            (Job::<RelayOutbox>::new("a/b"), "nothing says"),
            (job().concurrency(1), "not between 2"),
            (job().batch(11), "needs a window"),
            (job().batch(100).window(minutes(6)), "above 5 min"),
            (job().attempts(0, Backoff::Fixed(secs(1))), "0 attempts"),
            (
                job().attempts(3, Backoff::Fixed(Duration::from_millis(5))),
                "SQS's unit",
            ),
            (
                job().attempts(20, Backoff::Fixed(minutes(600))),
                "longer than a message is kept",
            ),
            (job().timeout(minutes(16)), "not between 3 s"),
            (job().timeout(secs(8)), "leaves no time"),
            (job().load(1000, secs(1)), "out of reach"),
            (job().load(1, minutes(6)), "longer than the timeout"),
            (job().sends_to(&["nobody"]), "no job"),
            (job().memory(64), "128"),
            (job().history(minutes(60), days(30)), "not a day to 30 days"),
            (job().history(days(7), days(31)), "not 7 to 30 days"),
            (job().connections(1), "the ledger needs one"),
            (job().schedules(THREE_FIELDS), "not six fields"),
            (job().schedules(EVERY_MINUTE).awaits_function(), "sends without end"),
        ] {
            let found = findings(spec.spec());
            assert!(found.contains(says), "{says}: {found}");
        }
        let refusing = Job::<DeliverNotification>::new("a/b")
            .about("x")
            .schedules(EVERY_MINUTE);
        assert!(findings(refusing.spec()).contains("missing field `notificationId`"));
    }

    #[test]
    fn connections_of_all_functions_together_must_fit() {
        let limits = Limits {
            database_connections: 3,
        };
        let found = check(catalog::ALL, limits);
        assert!(
            found
                .iter()
                .any(|f| f.job == "*" && f.what.contains("the database takes 3")),
            "{found:?}"
        );
    }
}
