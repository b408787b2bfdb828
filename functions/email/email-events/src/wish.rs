//! What recipients no longer want, and how that changes their preferences (spec: comms, C8).

use std::collections::HashMap;

use jobs::{Timestamp, Unsubscribe, UnsubscribeSource};
use serde_json::{Value, json};
use services::Error;
use services::mail::{Category, Claim, Reason, Suppression, suppress};
use sha2::{Digest, Sha256};
use sqlx::PgConnection;

use crate::store::Mail;

/// The preference that a mail obeys: what unsubscribing by it switches off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preference {
    Category(Category),
    NotificationDigest,
    EmailDigest,
    /// There is no "never" for it but not to be mailed about messages at all.
    MessageDigest,
}

impl Preference {
    /// Of a mail of this category that may be a digest. Nothing switches ESSENTIAL mail off.
    pub fn of(category: &str, digest: Option<&str>) -> Option<Self> {
        match digest {
            Some("notification-digest") => Some(Self::NotificationDigest),
            Some("email-digest") => Some(Self::EmailDigest),
            Some("message-digest") => Some(Self::MessageDigest),
            _ => {
                let category = category.parse().ok().filter(|category| *category != Category::System);
                category.map(Self::Category)
            }
        }
    }

    /// The column of `email_preferences`.
    fn column(self) -> &'static str {
        match self {
            Self::Category(category) => category.as_str(),
            Self::NotificationDigest => "digest_frequency",
            Self::EmailDigest => "email_frequency",
            Self::MessageDigest => "message_email_mode",
        }
    }

    /// What the column says afterwards.
    fn off(self) -> Value {
        match self {
            Self::Category(_) => json!(false),
            Self::NotificationDigest | Self::EmailDigest => json!("NEVER"),
            Self::MessageDigest => json!("OFF"),
        }
    }

    fn action(self) -> &'static str {
        match self {
            Self::Category(_) => "CATEGORY",
            _ => "DIGEST",
        }
    }
}

/// Somebody does not want something any more.
#[derive(Clone)]
pub struct Wish {
    /// The message that it came with.
    pub delivery: usize,
    pub user_id: Option<String>,
    /// For the list, when there is no user; unknown when the mail is gone from the ledger.
    pub email: Option<String>,
    pub category: String,
    pub preference: Option<Preference>,
    pub source: &'static str,
    pub campaign_id: Option<String>,
    pub token_hash: Option<String>,
    pub ip_address: Option<String>,
    pub user_agent: Option<String>,
}

impl Wish {
    /// Of a signed link.
    pub fn of_claim(delivery: usize, claim: &Claim, asked: &Unsubscribe, mail: Option<&Mail>) -> Self {
        let email = mail
            .map(|mail| mail.email.clone())
            .filter(|email| Claim::hash(email) == claim.address_hash);
        Self {
            delivery,
            user_id: claim.user_id.clone(),
            email,
            category: claim.category.clone(),
            preference: Preference::of(&claim.category, claim.digest.as_deref()),
            source: asked.source.as_str(),
            campaign_id: claim.campaign_id.clone(),
            token_hash: Some(
                Sha256::digest(&asked.token)
                    .iter()
                    .map(|byte| format!("{byte:02x}"))
                    .collect(),
            ),
            ip_address: asked.ip.clone(),
            user_agent: asked
                .user_agent
                .as_deref()
                .map(|agent| agent.chars().take(1000).collect()),
        }
    }

    /// Of a complaint: no mail of this category any more, be it in a digest or alone.
    pub fn of_complaint(delivery: usize, mail: &Mail) -> Self {
        Self::of_mail(delivery, mail, Preference::of(&mail.category, None), "complaint")
    }

    /// Of SES's own subscription management.
    pub fn of_subscription(delivery: usize, mail: &Mail, one_click: bool) -> Self {
        let digest = (mail.stream == "DIGEST").then_some(&*mail.template);
        let source = if one_click {
            UnsubscribeSource::OneClick
        } else {
            UnsubscribeSource::EmailLink
        };
        Self::of_mail(delivery, mail, Preference::of(&mail.category, digest), source.as_str())
    }

    fn of_mail(delivery: usize, mail: &Mail, preference: Option<Preference>, source: &'static str) -> Self {
        Self {
            delivery,
            user_id: mail.user_id.clone(),
            email: Some(mail.email.clone()),
            category: mail.category.clone(),
            preference,
            source,
            campaign_id: mail.campaign_id.clone(),
            token_hash: None,
            ip_address: None,
            user_agent: None,
        }
    }
}

/// A change, for `email_unsubscribe_log`.
struct Change<'a> {
    wish: &'a Wish,
    email: String,
    action: &'static str,
    previous: Value,
    current: Value,
}

/// Fulfils wishes; a user's switches that one, an address without a user gets no more mail of ours but ESSENTIAL. Answers the deliveries
/// for which that changed something; each change is logged.
pub async fn fulfil(connection: &mut PgConnection, wishes: &[Wish], at: Timestamp) -> Result<Vec<usize>, Error> {
    let mut changes = Vec::new();
    // A statement changes a row once: a user with two wishes in one batch, which is rare, has the second in a second round.
    let mut rest: Vec<&Wish> = wishes.iter().filter(|wish| wish.preference.is_some()).collect();
    let mut strangers = Vec::new();
    while !rest.is_empty() {
        let mut round: HashMap<&str, &Wish> = HashMap::new();
        let mut later = Vec::new();
        for wish in rest {
            match wish.user_id.as_deref() {
                None => strangers.push(wish),
                Some(user) if round.contains_key(user) => later.push(wish),
                Some(user) => drop(round.insert(user, wish)),
            }
        }
        strangers.extend(switch_off(connection, round, &mut changes).await?);
        rest = later;
    }
    // A complaint puts the address on the list anyway, for more than this.
    strangers.retain(|wish| wish.source != "complaint");
    unsubscribe(connection, &strangers, at, &mut changes).await?;
    log(connection, &changes).await?;
    Ok(changes.iter().map(|change| change.wish.delivery).collect())
}

/// One conditional update for one wish of each user. Answers the wishes whose users are gone.
async fn switch_off<'a>(
    connection: &mut PgConnection,
    round: HashMap<&str, &'a Wish>,
    changes: &mut Vec<Change<'a>>,
) -> Result<Vec<&'a Wish>, Error> {
    if round.is_empty() {
        return Ok(Vec::new());
    }
    let column = |wish: &Wish| wish.preference.map_or("", Preference::column).to_owned();
    let (users, columns): (Vec<_>, Vec<_>) = round
        .iter()
        .map(|(user, wish)| ((*user).to_owned(), column(wish)))
        .unzip();
    let rows = sqlx::query!(
        r#"WITH wish AS (
               SELECT u.id AS user_id, lower(btrim(u.email)) AS email, w.preference
               FROM unnest($1::text[], $2::text[]) AS w (user_id, preference) JOIN users u ON u.id = w.user_id
           ), changed AS (
               INSERT INTO email_preferences AS p (user_id, royalty_statements, license_expiry, project_invitations, messages, payouts, newsletters,
                                                   announcements, reports, blog, digest_frequency, email_frequency, message_email_mode)
               SELECT user_id, preference <> 'royalty_statements', preference <> 'license_expiry', preference <> 'project_invitations',
                      preference <> 'messages', preference <> 'payouts', preference <> 'newsletters', preference <> 'announcements',
                      preference <> 'reports', preference <> 'blog',
                      CASE preference WHEN 'digest_frequency' THEN 'NEVER' ELSE 'IMMEDIATE' END,
                      CASE preference WHEN 'email_frequency' THEN 'NEVER' ELSE 'IMMEDIATE' END,
                      CASE preference WHEN 'message_email_mode' THEN 'OFF' ELSE 'IMMEDIATE' END
               FROM wish ORDER BY user_id
               ON CONFLICT (user_id) DO UPDATE SET
                   royalty_statements = p.royalty_statements AND EXCLUDED.royalty_statements,
                   license_expiry = p.license_expiry AND EXCLUDED.license_expiry,
                   project_invitations = p.project_invitations AND EXCLUDED.project_invitations,
                   messages = p.messages AND EXCLUDED.messages,
                   payouts = p.payouts AND EXCLUDED.payouts,
                   newsletters = p.newsletters AND EXCLUDED.newsletters,
                   announcements = p.announcements AND EXCLUDED.announcements,
                   reports = p.reports AND EXCLUDED.reports,
                   blog = p.blog AND EXCLUDED.blog,
                   digest_frequency = CASE EXCLUDED.digest_frequency WHEN 'NEVER' THEN 'NEVER' ELSE p.digest_frequency END,
                   email_frequency = CASE EXCLUDED.email_frequency WHEN 'NEVER' THEN 'NEVER' ELSE p.email_frequency END,
                   message_email_mode = CASE EXCLUDED.message_email_mode WHEN 'OFF' THEN 'OFF' ELSE p.message_email_mode END,
                   updated_at = now()
               WHERE (p.royalty_statements AND NOT EXCLUDED.royalty_statements) OR (p.license_expiry AND NOT EXCLUDED.license_expiry)
                  OR (p.project_invitations AND NOT EXCLUDED.project_invitations) OR (p.messages AND NOT EXCLUDED.messages)
                  OR (p.payouts AND NOT EXCLUDED.payouts) OR (p.newsletters AND NOT EXCLUDED.newsletters)
                  OR (p.announcements AND NOT EXCLUDED.announcements) OR (p.reports AND NOT EXCLUDED.reports)
                  OR (p.blog AND NOT EXCLUDED.blog)
                  OR (p.digest_frequency <> 'NEVER' AND EXCLUDED.digest_frequency = 'NEVER')
                  OR (p.email_frequency <> 'NEVER' AND EXCLUDED.email_frequency = 'NEVER')
                  OR (p.message_email_mode <> 'OFF' AND EXCLUDED.message_email_mode = 'OFF')
               RETURNING p.user_id
           )
           SELECT w.user_id AS "user_id!", w.email, c.user_id IS NOT NULL AS "changed!",
                  coalesce(to_jsonb(old) -> w.preference,
                           CASE WHEN w.preference IN ('digest_frequency', 'email_frequency', 'message_email_mode') THEN '"IMMEDIATE"'::jsonb
                                ELSE 'true'::jsonb END) AS "previous!"
           FROM wish w LEFT JOIN changed c ON c.user_id = w.user_id LEFT JOIN email_preferences old ON old.user_id = w.user_id"#,
        &users,
        &columns,
    )
    .fetch_all(connection)
    .await?;
    let mut gone = round;
    for row in rows {
        let Some(wish) = gone.remove(row.user_id.as_str()) else {
            continue;
        };
        let (true, Some(preference)) = (row.changed, wish.preference) else {
            continue;
        };
        changes.push(Change {
            wish,
            email: wish.email.clone().or(row.email).unwrap_or_default(),
            action: preference.action(),
            previous: json!({ preference.column(): row.previous }),
            current: json!({ preference.column(): preference.off() }),
        });
    }
    Ok(gone.into_values().collect())
}

/// Addresses without a user: the list is all that can stop mail to them.
async fn unsubscribe<'a>(
    connection: &mut PgConnection,
    strangers: &[&'a Wish],
    at: Timestamp,
    changes: &mut Vec<Change<'a>>,
) -> Result<(), Error> {
    let entry = |wish: &&Wish| {
        Some(Suppression {
            email: wish.email.clone()?.into(),
            reason: Reason::Unsubscribe,
            detail: Some(format!("unsubscribed from {}", wish.category)),
            event_id: None,
            expires_at: None,
        })
    };
    let entries: Vec<_> = strangers.iter().filter_map(entry).collect();
    let mut changed = suppress(connection, &entries, at).await?;
    for wish in strangers {
        let Some(email) = &wish.email else { continue };
        let Some(place) = changed.iter().position(|one| one == email) else {
            continue;
        };
        changes.push(Change {
            wish,
            email: changed.swap_remove(place),
            action: "GLOBAL",
            previous: json!({ "suppressed": false }),
            current: json!({ "suppressed": "UNSUBSCRIBE" }),
        });
    }
    Ok(())
}

async fn log(connection: &mut PgConnection, changes: &[Change<'_>]) -> Result<(), Error> {
    if changes.is_empty() {
        return Ok(());
    }
    let texts = |text: for<'x> fn(&'x Change<'x>) -> &'x str| {
        changes.iter().map(|change| text(change).to_owned()).collect::<Vec<_>>()
    };
    let optional = |text: fn(&Wish) -> &Option<String>| {
        changes
            .iter()
            .map(|change| text(change.wish).clone())
            .collect::<Vec<_>>()
    };
    let previous: Vec<_> = changes.iter().map(|change| change.previous.clone()).collect();
    let current: Vec<_> = changes.iter().map(|change| change.current.clone()).collect();
    sqlx::query!(
        "INSERT INTO email_unsubscribe_log (user_id, email, action, source, categories, previous, current, campaign_id, token_hash,
                                            ip_address, user_agent)
         SELECT u.id, c.email, c.action, c.source, ARRAY[c.category], c.previous, c.current, c.campaign_id, c.token_hash, c.ip_address::inet,
                c.user_agent
         FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::jsonb[], $7::jsonb[], $8::text[], $9::text[], $10::text[],
                     $11::text[])
             AS c (user_id, email, action, source, category, previous, current, campaign_id, token_hash, ip_address, user_agent)
         LEFT JOIN users u ON u.id = c.user_id",
        &optional(|wish| &wish.user_id) as _,
        &texts(|change| &change.email),
        &texts(|change| change.action),
        &texts(|change| change.wish.source),
        &texts(|change| &change.wish.category),
        &previous,
        &current,
        &optional(|wish| &wish.campaign_id) as _,
        &optional(|wish| &wish.token_hash) as _,
        &optional(|wish| &wish.ip_address) as _,
        &optional(|wish| &wish.user_agent) as _,
    )
    .execute(connection)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mail_obeys_its_digest_else_its_category_and_essential_mail_nothing() {
        for (category, digest, column) in [
            ("payouts", None, Some("payouts")),
            ("announcements", Some("notification-digest"), Some("digest_frequency")),
            ("messages", Some("message-digest"), Some("message_email_mode")),
            ("announcements", Some("email-digest"), Some("email_frequency")),
            ("newsletters", Some("a-digest-of-tomorrow"), Some("newsletters")),
            ("system", None, None),
            ("a category of tomorrow", None, None),
        ] {
            assert_eq!(
                Preference::of(category, digest).map(Preference::column),
                column,
                "{category} {digest:?}"
            );
        }
    }
}
