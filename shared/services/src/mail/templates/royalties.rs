//! Royalty statements.

use serde::Deserialize;

use super::date::Date;
use super::line::{Line, Name};
use super::money::Currency;
use super::{filters, mail};

/// A statement can be read.
#[derive(Deserialize)]
pub(super) struct StatementReady {
    #[serde(default)]
    creator_name: Name,
    period_start: Date,
    period_end: Date,
    total_earnings_cents: i64,
    currency: Currency,
    statement_url: String,
    line_items: Option<Vec<LineItem>>,
}

#[derive(Deserialize)]
struct LineItem {
    asset_name: Line,
    amount_cents: i64,
    units: i64,
}

mail!(
    StatementReady,
    "royalties/royalty-statement-ready.html",
    "royalties/royalty-statement-ready.txt",
    |_, _| "Your royalty statement is ready"
);
