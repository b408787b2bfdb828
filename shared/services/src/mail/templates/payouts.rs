//! Money on its way to the creator's bank.

use serde::Deserialize;

use super::date::Date;
use super::line::{Line, Name};
use super::money::Currency;
use super::{filters, mail};

/// A payout has left.
#[derive(Deserialize)]
pub(super) struct PayoutConfirmation {
    #[serde(default)]
    user_name: Name,
    amount_cents: i64,
    currency: Currency,
    transfer_id: Line,
    estimated_arrival: Date,
    period: Option<Line>,
}

mail!(
    PayoutConfirmation,
    "payouts/payout-confirmation.html",
    "payouts/payout-confirmation.txt",
    |mail, _| { format!("Payout confirmed: {}", mail.currency.amount(mail.amount_cents)) }
);

/// A payout could not be made.
#[derive(Deserialize)]
pub(super) struct PayoutFailed {
    #[serde(default)]
    user_name: Name,
    amount_cents: i64,
    currency: Currency,
    error_message: String,
    action_steps: ActionSteps,
    support_url: String,
}

/// What the creator can do: producers send a text or a list.
#[derive(Deserialize)]
#[serde(untagged)]
enum ActionSteps {
    Text(String),
    List(Vec<Line>),
}

mail!(
    PayoutFailed,
    "payouts/payout-failed.html",
    "payouts/payout-failed.txt",
    |mail, _| { format!("Payout failed: {}", mail.currency.amount(mail.amount_cents)) }
);
