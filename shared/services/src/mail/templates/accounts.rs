//! The account itself: proving an address, getting back in, leaving.

use serde::Deserialize;

use super::date::Date;
use super::line::{Line, Name};
use super::{filters, mail};

/// Proves that the address is the reader's.
#[derive(Deserialize)]
pub(super) struct EmailVerification {
    #[serde(default)]
    user_name: Name,
    verification_url: String,
    expires_in_hours: u32,
}

mail!(
    EmailVerification,
    "accounts/email-verification.html",
    "accounts/email-verification.txt",
    |_, _| "Verify your account"
);

/// Lets the reader choose a new password.
#[derive(Deserialize)]
pub(super) struct PasswordReset {
    #[serde(default)]
    user_name: Name,
    reset_url: String,
    expires_in_hours: u32,
}

mail!(
    PasswordReset,
    "accounts/password-reset.html",
    "accounts/password-reset.txt",
    |_, _| "Reset your password"
);

/// The account will be gone on a day that is still to come.
#[derive(Deserialize)]
pub(super) struct DeletionScheduled {
    #[serde(default)]
    user_name: Name,
    deletion_date: Date,
}

mail!(
    DeletionScheduled,
    "accounts/account-deletion-scheduled.html",
    "accounts/account-deletion-scheduled.txt",
    |mail, layout| format!("Your account will be deleted on {}", layout.date(&mail.deletion_date))
);

/// The account is gone.
#[derive(Deserialize)]
pub(super) struct Deleted {
    #[serde(default)]
    user_name: Name,
    deletion_date: Date,
}

mail!(
    Deleted,
    "accounts/account-deleted.html",
    "accounts/account-deleted.txt",
    |_, _| "Your account was deleted"
);

/// Too many failed log-ins: nobody gets in for a while.
#[derive(Deserialize)]
pub(super) struct Locked {
    #[serde(default)]
    user_name: Name,
    locked_until: Date,
    failed_attempts: u32,
    ip_address: Option<Line>,
}

mail!(
    Locked,
    "accounts/account-locked.html",
    "accounts/account-locked.txt",
    |_, _| "Your account is locked for now"
);
