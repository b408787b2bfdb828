//! To be imported beside the templates whose files use them.
#![expect(unreachable_pub, reason = "askama makes a public type of the function")]

use super::money::{Currency, Money};

/// `{{ amount_cents|money(currency) }}`
#[askama::filter_fn]
pub(crate) fn money(cents: &i64, _: &dyn askama::Values, currency: &Currency) -> askama::Result<Money> {
    Ok(currency.amount(*cents))
}
