//! To be imported beside the templates whose files use them.
#![expect(unreachable_pub, reason = "askama makes public types of the functions")]

use super::money::{Currency, Money};
use super::number;

/// `{{ amount_cents|money(currency) }}`
#[askama::filter_fn]
pub(crate) fn money(cents: &i64, _: &dyn askama::Values, currency: &Currency) -> askama::Result<Money> {
    Ok(currency.amount(*cents))
}

/// `{{ profile_views|grouped }}`
#[askama::filter_fn]
pub(crate) fn grouped<N: Copy + Into<i128>>(n: &N, _: &dyn askama::Values) -> askama::Result<String> {
    Ok(number::grouped(*n))
}
