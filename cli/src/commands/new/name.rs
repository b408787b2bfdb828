//! A job's name, in every form that it takes.

use anyhow::{Context, Result, ensure};

/// In the order of the catalog.
pub(super) const DOMAINS: [&str; 13] = [
    "notifications",
    "email",
    "assets",
    "search",
    "analytics",
    "licenses",
    "royalties",
    "accounts",
    "brands",
    "creators",
    "projects",
    "blog",
    "system",
];

pub(super) struct Name<'a> {
    pub(super) domain: &'a str,
    pub(super) job: &'a str,
}

impl<'a> Name<'a> {
    pub(super) fn parse(path: &'a str) -> Result<Self> {
        let (domain, job) = path.split_once('/').context("not <domain>/<job>")?;
        ensure!(
            DOMAINS.contains(&domain),
            "no domain is called {domain}; there are: {}",
            DOMAINS.join(", ")
        );
        let word = |word: &str| {
            word.starts_with(|c: char| c.is_ascii_lowercase())
                && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
        };
        ensure!(
            job.len() <= 48 && job.split('-').all(word),
            "a job's name is words of a-z and 0-9 with - between them, 48 characters at most"
        );
        Ok(Self { domain, job })
    }

    /// `OrphanCleanup`
    pub(super) fn message(&self) -> String {
        self.job.split('-').map(capitalized).collect()
    }

    /// `ORPHAN_CLEANUP`
    pub(super) fn constant(&self) -> String {
        self.module().to_ascii_uppercase()
    }

    /// `orphan_cleanup`
    pub(super) fn module(&self) -> String {
        self.job.replace('-', "_")
    }

    /// `Orphan cleanup`
    pub(super) fn sentence(&self) -> String {
        capitalized(&self.job.replace('-', " "))
    }
}

fn capitalized(word: &str) -> String {
    let (first, rest) = word.split_at(1);
    first.to_ascii_uppercase() + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_takes_the_form_that_each_place_wants() {
        let name = Name::parse("assets/orphan-cleanup").unwrap();
        assert_eq!(
            [name.message(), name.constant(), name.module(), name.sentence()],
            ["OrphanCleanup", "ORPHAN_CLEANUP", "orphan_cleanup", "Orphan cleanup"]
        );
    }

    #[test]
    fn names_that_no_crate_can_have_are_refused() {
        let long = format!("email/{}", "x".repeat(49));
        for wrong in [
            "orphan-cleanup",
            "files/x",
            "email/",
            "email/Send",
            "email/a--b",
            "email/-a",
            "email/a-",
            "email/2fa",
            "email/a/b",
            "email/a_b",
            "email/é",
            "email/..",
            &long,
        ] {
            assert!(Name::parse(wrong).is_err(), "{wrong}");
        }
    }
}
