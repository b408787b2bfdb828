//! What kind of mail a mail is: its stream (C3) decides which rules may stop it and which lane it takes, its
//! category which preference turns it off.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The text names no known variant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown {kind} `{name}`")]
pub struct UnknownName {
    kind: &'static str,
    name: String,
}

/// Which rules a mail obeys, from the most urgent stream to the least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Stream {
    /// Owed to the person: it ignores preferences, quiet hours and unsubscription, and carries no unsubscribe header.
    Essential,
    /// One event in the person's own business.
    Notification,
    /// Several events in one mail, at an hour the person chose.
    Digest,
    /// Campaigns.
    Marketing,
}

impl Stream {
    /// Every stream, the most urgent first.
    pub const ALL: [Self; 4] = [Self::Essential, Self::Notification, Self::Digest, Self::Marketing];

    /// The name in SQL and on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Essential => "ESSENTIAL",
            Self::Notification => "NOTIFICATION",
            Self::Digest => "DIGEST",
            Self::Marketing => "MARKETING",
        }
    }
}

/// The subject of a mail, as far as a preference can switch it off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Category {
    /// Security, accounts and operations: always sent, so always [`Stream::Essential`].
    System,
    /// Royalty statements and their disputes.
    RoyaltyStatements,
    /// Licenses that end, and their renewal.
    LicenseExpiry,
    /// Invitations to projects, and projects that match.
    ProjectInvitations,
    /// Messages between users.
    Messages,
    /// Money on its way to the user's bank.
    Payouts,
    /// The newsletter.
    Newsletters,
    /// News of the platform.
    Announcements,
    /// Reports that are ready to download.
    Reports,
    /// Posts assigned or published.
    Blog,
    /// Several of them in one mail: no category's preference stops it, only its own frequency.
    Digest,
}

impl Category {
    /// Every category.
    pub const ALL: [Self; 11] = [
        Self::System,
        Self::RoyaltyStatements,
        Self::LicenseExpiry,
        Self::ProjectInvitations,
        Self::Messages,
        Self::Payouts,
        Self::Newsletters,
        Self::Announcements,
        Self::Reports,
        Self::Blog,
        Self::Digest,
    ];

    /// The name in SQL and on the wire; for all but `system` and `digest` also the name of the preference column.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::RoyaltyStatements => "royalty_statements",
            Self::LicenseExpiry => "license_expiry",
            Self::ProjectInvitations => "project_invitations",
            Self::Messages => "messages",
            Self::Payouts => "payouts",
            Self::Newsletters => "newsletters",
            Self::Announcements => "announcements",
            Self::Reports => "reports",
            Self::Blog => "blog",
            Self::Digest => "digest",
        }
    }
}

macro_rules! named {
    ($name:ident, $kind:literal) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = UnknownName;

            fn from_str(name: &str) -> Result<Self, UnknownName> {
                Self::ALL
                    .into_iter()
                    .find(|known| known.as_str() == name)
                    .ok_or_else(|| UnknownName {
                        kind: $kind,
                        name: name.to_owned(),
                    })
            }
        }
    };
}

named!(Stream, "mail stream");
named!(Category, "mail category");

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, to_value};

    use super::*;

    #[test]
    fn sql_and_json_use_the_same_names() {
        for stream in Stream::ALL {
            assert_eq!(stream.as_str().parse(), Ok(stream));
            assert_eq!(to_value(stream).unwrap(), Value::from(stream.as_str()));
            assert_eq!(from_value::<Stream>(stream.as_str().into()).unwrap(), stream);
        }
        for category in Category::ALL {
            assert_eq!(category.as_str().parse(), Ok(category));
            assert_eq!(to_value(category).unwrap(), Value::from(category.as_str()));
            assert_eq!(from_value::<Category>(category.as_str().into()).unwrap(), category);
        }
    }

    #[test]
    fn an_unknown_name_is_named() {
        assert_eq!(
            "SPAM".parse::<Stream>().unwrap_err().to_string(),
            "unknown mail stream `SPAM`"
        );
        assert_eq!(
            "Payouts".parse::<Category>().unwrap_err().to_string(),
            "unknown mail category `Payouts`"
        );
    }
}
