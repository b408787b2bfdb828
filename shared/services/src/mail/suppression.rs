//! The suppression list: addresses that get no mail, or not all of it (spec: comms, C4). The gate reads it, this writes it.
//!
//! An entry is never weakened: a second reason makes the scope at least as wide and the end at least as late, and the higher reason is the one
//! that is told. So it does not matter in which order the reasons arrive.

use std::collections::BTreeMap;

use sqlx::PgConnection;

use super::ledger::normal;
use crate::{Error, Redacted, Timestamp};

/// Why an address is on the list, the lowest precedence first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// It bounced again and again; for a time.
    SoftBounce,
    /// Somebody without an account does not want our mail.
    Unsubscribe,
    /// Somebody here put it there.
    Manual,
    /// It does not exist.
    HardBounce,
    /// Its owner calls our mail spam.
    Complaint,
}

impl Reason {
    /// `reason` and `bounce_type`.
    const fn columns(self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::SoftBounce => ("BOUNCE", Some("soft")),
            Self::Unsubscribe => ("UNSUBSCRIBE", None),
            Self::Manual => ("MANUAL", None),
            Self::HardBounce => ("BOUNCE", Some("hard")),
            Self::Complaint => ("COMPLAINT", None),
        }
    }

    fn of_columns(reason: &str, bounce_type: Option<&str>) -> Self {
        match (reason, bounce_type) {
            ("COMPLAINT", _) => Self::Complaint,
            ("BOUNCE", Some("soft")) => Self::SoftBounce,
            ("BOUNCE", _) => Self::HardBounce,
            ("UNSUBSCRIBE", _) => Self::Unsubscribe,
            _ => Self::Manual,
        }
    }

    const fn scope(self) -> Scope {
        match self {
            Self::SoftBounce | Self::HardBounce | Self::Manual => Scope::All,
            Self::Unsubscribe => Scope::NonEssential,
            Self::Complaint => Scope::AllButUserInitiated,
        }
    }
}

/// What an entry stops, the narrowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Scope {
    NonEssential,
    AllButUserInitiated,
    All,
}

impl Scope {
    const fn as_str(self) -> &'static str {
        match self {
            Self::NonEssential => "NON_ESSENTIAL",
            Self::AllButUserInitiated => "ALL_BUT_USER_INITIATED",
            Self::All => "ALL",
        }
    }

    /// The scope of a name from SQL; the column's CHECK admits no other.
    fn named(name: &str) -> Self {
        let named = [Self::NonEssential, Self::AllButUserInitiated]
            .into_iter()
            .find(|scope| scope.as_str() == name);
        named.unwrap_or(Self::All)
    }
}

/// A reason to suppress an address.
#[derive(Clone, Debug)]
pub struct Suppression {
    /// The address.
    pub email: Redacted<String>,
    /// Why.
    pub reason: Reason,
    /// What the other side said.
    pub detail: Option<String>,
    /// The row of `email_events` that says so.
    pub event_id: Option<String>,
    /// Until when, unless for good.
    pub expires_at: Option<Timestamp>,
}

/// What the list says of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    reason: Reason,
    scope: Scope,
    /// `None`: for good.
    expires_at: Option<Timestamp>,
    detail: Option<String>,
    event_id: Option<String>,
}

impl Entry {
    fn of(suppression: &Suppression) -> Self {
        Self {
            reason: suppression.reason,
            scope: suppression.reason.scope(),
            expires_at: suppression.expires_at,
            detail: suppression.detail.clone(),
            event_id: suppression.event_id.clone(),
        }
    }

    /// Both together.
    fn join(self, other: Self) -> Self {
        let (scope, expires_at) = (
            self.scope.max(other.scope),
            self.expires_at.zip(other.expires_at).map(|(a, b)| a.max(b)),
        );
        let told = if other.reason > self.reason { other } else { self };
        Self {
            scope,
            expires_at,
            ..told
        }
    }
}

/// Puts addresses on the list. Answers those for which that changed something. An entry that has expired at `at` counts for nothing.
pub async fn suppress(
    connection: &mut PgConnection,
    suppressions: &[Suppression],
    at: Timestamp,
) -> Result<Vec<String>, Error> {
    let mut wanted: BTreeMap<String, Entry> = BTreeMap::new();
    for suppression in suppressions {
        let (email, entry) = (normal(suppression.email.expose()), Entry::of(suppression));
        let joined = match wanted.remove(&email) {
            Some(other) => other.join(entry),
            None => entry,
        };
        wanted.insert(email, joined);
    }
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    // Addresses are inserted, and later locked, in their order, so that two transactions with the same ones do not lock each other out.
    let columns = Columns::of(&wanted);
    let mut changed = sqlx::query_scalar!(
        "INSERT INTO email_suppressions (email, reason, scope, bounce_type, detail, source_event_id, expires_at)
         SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::timestamptz[])
             AS s (email, reason, scope, bounce_type, detail, event_id, expires_at)
         ORDER BY email
         ON CONFLICT (email) DO NOTHING
         RETURNING email",
        &columns.emails,
        &columns.reasons,
        &columns.scopes,
        &columns.bounce_types as _,
        &columns.details as _,
        &columns.event_ids as _,
        &columns.expiries as _,
    )
    .fetch_all(&mut *connection)
    .await?;
    wanted.retain(|email, _| !changed.contains(email));
    if wanted.is_empty() {
        return Ok(changed);
    }
    let emails: Vec<_> = wanted.keys().cloned().collect();
    let present = sqlx::query!(
        "SELECT email, reason, scope, bounce_type, detail, source_event_id, expires_at
         FROM email_suppressions WHERE email = ANY($1) ORDER BY email FOR UPDATE",
        &emails,
    )
    .fetch_all(&mut *connection)
    .await?;
    for row in present {
        let entry = Entry {
            reason: Reason::of_columns(&row.reason, row.bounce_type.as_deref()),
            scope: Scope::named(&row.scope),
            expires_at: row.expires_at,
            detail: row.detail,
            event_id: row.source_event_id,
        };
        let Some(wish) = wanted.remove(&row.email) else {
            continue;
        };
        let expired = entry.expires_at.is_some_and(|end| end <= at);
        let joined = if expired { wish } else { entry.clone().join(wish) };
        if joined != entry {
            wanted.insert(row.email, joined);
        }
    }
    if !wanted.is_empty() {
        let columns = Columns::of(&wanted);
        sqlx::query!(
            "UPDATE email_suppressions s
             SET reason = w.reason, scope = w.scope, bounce_type = w.bounce_type, detail = w.detail, source_event_id = w.event_id,
                 expires_at = w.expires_at, suppressed_at = CASE WHEN s.expires_at <= $8 THEN $8 ELSE s.suppressed_at END
             FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::timestamptz[])
                 AS w (email, reason, scope, bounce_type, detail, event_id, expires_at)
             WHERE s.email = w.email",
            &columns.emails,
            &columns.reasons,
            &columns.scopes,
            &columns.bounce_types as _,
            &columns.details as _,
            &columns.event_ids as _,
            &columns.expiries as _,
            at,
        )
        .execute(&mut *connection)
        .await?;
        changed.extend(columns.emails);
    }
    Ok(changed)
}

#[derive(Default)]
struct Columns {
    emails: Vec<String>,
    reasons: Vec<String>,
    scopes: Vec<String>,
    bounce_types: Vec<Option<String>>,
    details: Vec<Option<String>>,
    event_ids: Vec<Option<String>>,
    expiries: Vec<Option<Timestamp>>,
}

impl Columns {
    fn of(entries: &BTreeMap<String, Entry>) -> Self {
        let mut columns = Self::default();
        for (email, entry) in entries {
            let (reason, bounce_type) = entry.reason.columns();
            columns.emails.push(email.clone());
            columns.reasons.push(reason.to_owned());
            columns.scopes.push(entry.scope.as_str().to_owned());
            columns.bounce_types.push(bounce_type.map(str::to_owned));
            columns.details.push(entry.detail.clone());
            columns.event_ids.push(entry.event_id.clone());
            columns.expiries.push(entry.expires_at);
        }
        columns
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const REASONS: [Reason; 5] = [
        Reason::SoftBounce,
        Reason::Unsubscribe,
        Reason::Manual,
        Reason::HardBounce,
        Reason::Complaint,
    ];

    fn entry() -> impl Strategy<Value = Entry> {
        (0..REASONS.len(), proptest::option::of(0i64..1000)).prop_map(|(reason, end)| {
            Entry::of(&Suppression {
                email: Redacted::new("a@x.com".to_owned()),
                reason: REASONS[reason],
                detail: None,
                event_id: None,
                expires_at: end.and_then(|seconds| Timestamp::from_timestamp(seconds, 0)),
            })
        })
    }

    fn lasts(entry: &Entry) -> i64 {
        entry.expires_at.map_or(i64::MAX, |end| end.timestamp())
    }

    proptest! {
        #[test]
        fn reasons_join_in_any_order_to_the_same_and_never_to_less(a in entry(), b in entry(), c in entry()) {
            let all = a.clone().join(b.clone()).join(c.clone());
            prop_assert_eq!(&all, &c.clone().join(a.clone()).join(b.clone()));
            prop_assert_eq!(&all, &a.clone().join(b.clone().join(c.clone())));
            prop_assert_eq!(&all, &all.clone().join(b.clone()));
            for one in [a, b, c] {
                prop_assert!(all.scope >= one.scope && all.reason >= one.reason && lasts(&all) >= lasts(&one));
            }
        }
    }

    #[test]
    fn a_reason_is_read_as_it_was_written() {
        for reason in REASONS {
            let (name, bounce_type) = reason.columns();
            assert_eq!(Reason::of_columns(name, bounce_type), reason);
            assert_eq!(Scope::named(reason.scope().as_str()), reason.scope());
        }
        // As the source wrote it.
        assert_eq!(Reason::of_columns("BOUNCE", None), Reason::HardBounce);
    }
}
