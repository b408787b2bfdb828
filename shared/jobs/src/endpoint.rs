use std::time::Duration;

use crate::check::Finding;
use crate::spec::{Spec, Use, minutes, secs};

/// An HTTP endpoint: a function that a public URL wakes, and not a queue. It answers at once and leaves the work to a job.
///
/// It has no runs, no attempts and no dead letters: whoever asked sees the answer, and asks again.
#[derive(Clone, Copy, Debug)]
pub struct Endpoint {
    path: &'static str,
    /// What it answers, in one sentence.
    pub about: &'static str,
    /// The most requests at a time. They are reserved: a flood takes no job's share.
    pub concurrency: u32,
    /// The Lambda timeout.
    pub timeout: Duration,
    /// Memory of the function, in MiB.
    pub memory_mb: u32,
    /// What the function may touch; permissions and environment follow.
    pub uses: &'static [Use],
    /// The jobs to whose queues it sends, by name.
    pub sends_to: &'static [&'static str],
}

impl Endpoint {
    /// An endpoint by its place in `functions/`: `"<domain>/<endpoint>"`.
    pub const fn new(path: &'static str) -> Self {
        Self {
            path,
            about: "",
            concurrency: 10,
            timeout: secs(10),
            memory_mb: 128,
            uses: &[],
            sends_to: &[],
        }
    }

    /// Sets [`Endpoint::about`].
    pub const fn about(mut self, about: &'static str) -> Self {
        self.about = about;
        self
    }

    /// Sets [`Endpoint::concurrency`].
    pub const fn concurrency(mut self, concurrency: u32) -> Self {
        self.concurrency = concurrency;
        self
    }

    /// Sets [`Endpoint::uses`].
    pub const fn uses(mut self, uses: &'static [Use]) -> Self {
        self.uses = uses;
        self
    }

    /// Sets [`Endpoint::sends_to`].
    pub const fn sends_to(mut self, jobs: &'static [&'static str]) -> Self {
        self.sends_to = jobs;
        self
    }

    /// The folder of the endpoint in `functions/`.
    pub fn domain(&self) -> &'static str {
        self.path.split_once('/').map_or("", |(domain, _)| domain)
    }

    /// The name of the endpoint, of its crate, its binary and (after a prefix) its function.
    pub fn name(&self) -> &'static str {
        self.path.split_once('/').map_or(self.path, |(_, name)| name)
    }
}

/// Proves the rules on `endpoints`, beside the jobs that they send to; empty means that everything fits.
pub fn check_endpoints(endpoints: &[&Endpoint], jobs: &[&Spec]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, endpoint) in endpoints.iter().enumerate() {
        let name = endpoint.name();
        let mut expect = |holds: bool, what: String| {
            if !holds {
                findings.push(Finding {
                    job: name.to_owned(),
                    what,
                });
            }
        };
        let names = endpoints[..index].iter().map(|other| other.name());
        let taken = names
            .chain(jobs.iter().map(|job| job.name()))
            .any(|other| other == name);
        expect(!taken, "the name is declared twice".into());
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        expect(
            !endpoint.domain().is_empty() && (1..=48).contains(&name.len()) && name.chars().all(fits),
            "the path is not <domain>/<endpoint>, with a name of 1-48 of a-z, 0-9 and -".into(),
        );
        expect(
            !endpoint.about.is_empty(),
            "nothing says what the endpoint answers".into(),
        );
        expect(
            endpoint.timeout >= secs(3) && endpoint.timeout < minutes(1),
            format!(
                "a timeout of {:?} is not between 3 s and a minute: somebody waits",
                endpoint.timeout
            ),
        );
        expect(
            (1..=100).contains(&endpoint.concurrency),
            format!(
                "a concurrency of {} is not between 1 and 100, what an account can spare",
                endpoint.concurrency
            ),
        );
        // An endpoint must answer while the database is away, and no flood of requests may use its connections up.
        expect(
            !endpoint.uses.contains(&Use::Database),
            "an endpoint uses the database".into(),
        );
        for target in endpoint.sends_to {
            let known = jobs.iter().any(|job| job.name() == *target);
            expect(known, format!("it sends to `{target}`, which is no job"));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog;

    #[test]
    fn the_endpoints_of_the_catalog_fit() {
        assert_eq!(check_endpoints(catalog::ENDPOINTS, catalog::ALL), []);
    }

    #[test]
    fn every_rule_can_fail() {
        let good = Endpoint::new("email/good").about("Answers").sends_to(&["email-events"]);
        assert_eq!(check_endpoints(&[&good], catalog::ALL), []);
        let slow = Endpoint {
            timeout: minutes(5),
            ..good
        };
        for (bad, word) in [
            (Endpoint::new("email/email-events").about("Answers"), "twice"),
            (Endpoint::new("nowhere").about("Answers"), "path"),
            (Endpoint::new("email/Loud").about("Answers"), "path"),
            (Endpoint::new("email/mute"), "nothing says"),
            (slow, "timeout"),
            (good.concurrency(0), "concurrency"),
            (good.uses(&[Use::Database]), "database"),
            (good.sends_to(&["nobody"]), "`nobody`"),
        ] {
            let found = check_endpoints(&[&bad], catalog::ALL);
            assert!(found.len() == 1 && found[0].what.contains(word), "{word}: {found:?}");
        }
        assert_eq!(check_endpoints(&[&good, &good], catalog::ALL).len(), 1);
    }
}
