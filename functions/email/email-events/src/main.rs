//! Applies what SES reports of mails, and what recipients ask for (spec: comms, `email-events`).
//!
//! # Invariants
//!
//! * An event has its effects once: they are those of the rows of `email_events` that this transaction inserts, and of no others.
//! * Events come in any order, and the end is the same: ranks never fall, of two times the earlier stays, suppressions only grow.
//! * A batch costs a bounded number of statements, whatever it holds, and locks in one order: mails, events, recipients, campaigns,
//!   preferences, suppressions, engagements.
//!
//! # Ways to get this wrong
//!
//! * Judging a bounce by its text. SES has fields for that.
//! * Believing a token because it is in our queue: everybody who can write to the queue could unsubscribe everybody.

mod agent;
mod fact;
mod store;
mod wish;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::process::ExitCode;
use std::time::Duration;

use jobs::{EmailEvent, catalog};
use runtime::{Context, Delivery, Failure, Outcome, done, skipped};
use serde_json::json;
use services::Error;
use services::mail::feedback::{self, Feedback, rank};
use services::mail::{Claim, Reason, Signer, Suppression, suppress};
use sqlx::PgConnection;

use fact::{Effect, Fact};
use store::{Engagement, Linked, Mail};
use wish::Wish;

/// An event may be faster than the commit of its mail.
const LINK_AGAIN_AFTER: Duration = Duration::from_secs(30);
/// How long soft bounces keep an address from our mail, from the last one on.
const REST: chrono::Duration = chrono::Duration::days(30);

fn main() -> ExitCode {
    runtime::serve_batch(catalog::EMAIL_EVENTS, apply)
}

/// What a message says.
enum Said {
    Facts(Vec<Fact>),
    Claimed(Claim),
    Forged,
}

async fn apply(deliveries: &[Delivery<EmailEvent>], context: &Context) -> Result<Vec<Outcome>, Failure> {
    let said = deliveries.iter().map(hear).collect::<Result<Vec<_>, _>>()?;
    let mut tx = context.database().begin().await?;
    let mails = load(&mut tx, &said).await?;
    let mut outcomes = Vec::with_capacity(deliveries.len());
    let mut batch = Batch::default();
    for (index, (delivery, said)) in deliveries.iter().zip(&said).enumerate() {
        outcomes.push(match said {
            Said::Facts(facts) => batch.link(facts, &mails, index, delivery),
            Said::Claimed(claim) => batch.claim(claim, &mails, index, delivery),
            Said::Forged => skipped("bad_signature"),
        });
    }
    let report = batch.write(&mut tx).await?;
    tx.commit().await?;
    for (index, outcome) in outcomes.iter_mut().enumerate() {
        if outcome.is_ok() && !matches!(said[index], Said::Forged) {
            *outcome = done(match &said[index] {
                Said::Facts(facts) => {
                    json!({ "events": facts.len(), "new": report.new.get(&index).copied().unwrap_or(0) })
                }
                _ => json!({ "changed": report.changed.contains(&index) }),
            });
        }
    }
    Ok(outcomes)
}

fn hear(delivery: &Delivery<EmailEvent>) -> Result<Said, Failure> {
    match &delivery.message {
        EmailEvent::Ses(event) => Ok(Said::Facts(Fact::of(event))),
        EmailEvent::Unsubscribe(asked) => {
            // Not the message's fault, and over when the function is deployed as it should be.
            let signer = Signer::from_env().map_err(|error| Failure::Retry {
                error: error.chain(),
                after: None,
            })?;
            let Some(claim) = signer.verify(&asked.token) else {
                tracing::warn!(run_key = delivery.run.key(), "an unsubscribe token is not signed by us");
                return Ok(Said::Forged);
            };
            Ok(Said::Claimed(claim))
        }
    }
}

/// Mails by our id and by SES's.
#[derive(Default)]
struct Mails {
    by_id: HashMap<String, Mail>,
    by_ses_message_id: HashMap<String, String>,
}

impl Mails {
    fn of_fact(&self, fact: &Fact) -> Option<&Mail> {
        let tagged = fact.email_id.as_ref().and_then(|id| self.by_id.get(id));
        tagged.or_else(|| self.by_id.get(self.by_ses_message_id.get(&fact.ses_message_id)?))
    }
}

async fn load(connection: &mut PgConnection, said: &[Said]) -> Result<Mails, Error> {
    let (mut ids, mut ses_message_ids) = (Vec::new(), Vec::new());
    for said in said {
        match said {
            Said::Facts(facts) => {
                ids.extend(facts.iter().filter_map(|fact| fact.email_id.clone()));
                ses_message_ids.extend(facts.iter().map(|fact| fact.ses_message_id.clone()));
            }
            Said::Claimed(claim) => ids.push(claim.email_id.clone()),
            Said::Forged => {}
        }
    }
    let mut mails = Mails::default();
    if ids.is_empty() && ses_message_ids.is_empty() {
        return Ok(mails);
    }
    for mail in store::load(connection, &ids, &ses_message_ids).await? {
        if let Some(id) = &mail.ses_message_id {
            mails.by_ses_message_id.insert(id.clone(), mail.id.clone());
        }
        mails.by_id.insert(mail.id.clone(), mail);
    }
    Ok(mails)
}

/// Everything that a batch of messages changes.
#[derive(Default)]
struct Batch<'a> {
    facts: Vec<Linked<'a>>,
    /// The message of each fact.
    deliveries: Vec<usize>,
    feedback: BTreeMap<String, Feedback>,
    campaigns: HashSet<String>,
    wishes: Vec<Wish>,
}

/// What a batch did, by message.
#[derive(Default)]
struct Report {
    /// Rows of `email_events`.
    new: HashMap<usize, usize>,
    /// Wishes that changed something.
    changed: HashSet<usize>,
}

impl<'a> Batch<'a> {
    /// Takes the facts of a message, unless the mail that they are about is still to be seen.
    fn link(&mut self, facts: &'a [Fact], mails: &'a Mails, index: usize, delivery: &Delivery<EmailEvent>) -> Outcome {
        let waits = |fact: &Fact| fact.kind != "OTHER" && mails.of_fact(fact).is_none();
        if facts.iter().any(waits) && !delivery.run.is_last_attempt() {
            return Err(Failure::Retry {
                error: "the ledger has no such mail yet".into(),
                after: Some(LINK_AGAIN_AFTER),
            });
        }
        for fact in facts {
            let mail = mails.of_fact(fact);
            let email = match mail {
                // SES names a domain in ASCII, and a forwarding server may name anybody.
                Some(mail) if fact.alone => mail.email.clone(),
                _ => fact.recipient.clone(),
            };
            self.facts.push(Linked { fact, mail, email });
            self.deliveries.push(index);
        }
        done(())
    }

    /// Takes a wish that we signed.
    fn claim(&mut self, claim: &Claim, mails: &Mails, index: usize, delivery: &Delivery<EmailEvent>) -> Outcome {
        let EmailEvent::Unsubscribe(asked) = &delivery.message else {
            return done(());
        };
        let mail = mails.by_id.get(&claim.email_id);
        if let Some(mail) = mail {
            let unsubscribed = Feedback {
                rank: rank::UNSUBSCRIBED,
                unsubscribed_at: Some(delivery.run.as_of()),
                ..Feedback::default()
            };
            self.learn(mail, unsubscribed);
        }
        self.wishes.push(Wish::of_claim(index, claim, asked, mail));
        done(())
    }

    fn learn(&mut self, mail: &Mail, news: Feedback) {
        let known = self.feedback.remove(&mail.id).unwrap_or_default();
        self.feedback.insert(mail.id.clone(), known.join(news));
        if mail.campaign_id.is_some() {
            self.campaigns.insert(mail.id.clone());
        }
    }

    /// Writes facts, and the effects of those that are new.
    async fn write(mut self, connection: &mut PgConnection) -> Result<Report, Error> {
        let now = chrono::Utc::now();
        let mut report = Report::default();
        let mut fresh = store::insert(connection, &self.facts).await?;
        let mut suppressions = Vec::new();
        let mut engagements: BTreeMap<String, Engagement> = BTreeMap::new();
        let (mut opened, mut clicks, mut soft) = (HashSet::new(), Vec::new(), Vec::new());
        for (linked, index) in std::mem::take(&mut self.facts)
            .into_iter()
            .zip(std::mem::take(&mut self.deliveries))
        {
            let Linked { fact, mail, email } = linked;
            // Of the same event twice in a batch, one.
            let Some(event_id) = fresh.remove(&fact.key) else {
                continue;
            };
            *report.new.entry(index).or_default() += 1;
            if let Some(mail) = mail {
                self.learn(mail, fact.feedback());
            }
            let suppression = |reason| Suppression {
                email: email.clone().into(),
                reason,
                detail: fact.diagnostic.clone().or_else(|| fact.feedback_type.clone()),
                event_id: Some(event_id.clone()),
                expires_at: None,
            };
            match (fact.effect, mail) {
                (Effect::HardBounce, _) => suppressions.push(suppression(Reason::HardBounce)),
                (Effect::SoftBounce, _) => soft.push(email),
                (Effect::Complaint, mail) => {
                    suppressions.push(suppression(Reason::Complaint));
                    self.wishes.extend(mail.map(|mail| Wish::of_complaint(index, mail)));
                }
                (Effect::Unsubscribed { one_click }, Some(mail)) => {
                    self.wishes.push(Wish::of_subscription(index, mail, one_click))
                }
                (Effect::Sent, Some(_)) => engagements.entry(email).or_default().sent += 1,
                (Effect::Opened, Some(mail)) => {
                    let engagement = engagements.entry(email).or_default();
                    engagement.opened += i32::from(!mail.opened && opened.insert(&mail.id));
                    engagement.last_at = engagement.last_at.max(Some(fact.at));
                }
                (Effect::Clicked, Some(mail)) => {
                    let engagement = engagements.entry(email).or_default();
                    engagement.clicked += 1;
                    engagement.last_at = engagement.last_at.max(Some(fact.at));
                    if mail.campaign_id.is_some() {
                        clicks.push((event_id, mail.id.clone()));
                    }
                }
                // Mail that the ledger does not know is not ours to count.
                (Effect::None | Effect::Unsubscribed { .. } | Effect::Sent | Effect::Opened | Effect::Clicked, _) => {}
            }
        }
        for (email, last_at) in store::worn_out(connection, &soft).await? {
            suppressions.push(Suppression {
                email: email.into(),
                reason: Reason::SoftBounce,
                detail: Some("three soft bounces in 30 days".into()),
                event_id: None,
                expires_at: Some(last_at + REST),
            });
        }
        let mails: Vec<_> = self.feedback.into_iter().collect();
        feedback::record(connection, &mails).await?;
        let of_campaigns: Vec<_> = mails
            .into_iter()
            .filter(|(id, _)| self.campaigns.contains(id))
            .collect();
        store::count_for_campaigns(connection, &of_campaigns).await?;
        store::keep_clicks(connection, &clicks).await?;
        report
            .changed
            .extend(wish::fulfil(connection, &self.wishes, now).await?);
        suppress(connection, &suppressions, now).await?;
        store::engage(connection, &engagements).await?;
        Ok(report)
    }
}
