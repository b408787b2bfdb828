//! Amounts: integers in the currency's minor unit, from the database to the reader.

use std::fmt;

use serde::de::Error;
use serde::{Deserialize, Deserializer};

use super::number::grouped;

/// An ISO 4217 code.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Currency([u8; 3]);

/// An amount as people write it: `$1,250.00`, `-€3.50`, `1,250.00 CHF`, `1,250 JPY`.
#[derive(Clone, Copy)]
pub(super) struct Money {
    minor: i64,
    currency: Currency,
}

impl Currency {
    /// This many minor units of the currency.
    pub(super) fn amount(self, minor: i64) -> Money {
        Money { minor, currency: self }
    }

    fn code(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    fn symbol(&self) -> Option<char> {
        match &self.0 {
            b"USD" => Some('$'),
            b"EUR" => Some('€'),
            b"GBP" => Some('£'),
            _ => None,
        }
    }

    /// How many decimals the minor unit stands for (ISO 4217).
    fn decimals(&self) -> u32 {
        match &self.0 {
            b"BIF" | b"CLP" | b"DJF" | b"GNF" | b"ISK" | b"JPY" | b"KMF" | b"KRW" | b"PYG" | b"RWF" | b"UGX"
            | b"VND" | b"VUV" | b"XAF" | b"XOF" | b"XPF" => 0,
            b"BHD" | b"IQD" | b"JOD" | b"KWD" | b"LYD" | b"OMR" | b"TND" => 3,
            _ => 2,
        }
    }
}

impl<'de> Deserialize<'de> for Currency {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let code = String::deserialize(deserializer)?.to_ascii_uppercase();
        match <[u8; 3]>::try_from(code.as_bytes()) {
            Ok(code) if code.iter().all(u8::is_ascii_uppercase) => Ok(Self(code)),
            _ => Err(D::Error::custom("not a currency code")),
        }
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decimals = self.currency.decimals();
        let unit = 10_u64.pow(decimals);
        let (whole, fraction) = (self.minor.unsigned_abs() / unit, self.minor.unsigned_abs() % unit);

        if self.minor < 0 {
            f.write_str("-")?;
        }
        if let Some(symbol) = self.currency.symbol() {
            write!(f, "{symbol}")?;
        }
        f.write_str(&grouped(whole))?;
        if decimals > 0 {
            write!(f, ".{fraction:0>width$}", width = decimals as usize)?;
        }
        match self.currency.symbol() {
            Some(_) => Ok(()),
            None => write!(f, " {}", self.currency.code()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    #[test]
    fn money_reads_as_people_write_it() {
        for (minor, currency, text) in [
            (125_000, "USD", "$1,250.00"),
            (0, "USD", "$0.00"),
            (5, "USD", "$0.05"),
            (-5, "USD", "-$0.05"),
            (99_999, "usd", "$999.99"),
            (100_000, "EUR", "€1,000.00"),
            (-123_456_789, "GBP", "-£1,234,567.89"),
            (125_000, "CHF", "1,250.00 CHF"),
            (1_250, "JPY", "1,250 JPY"),
            (-7, "KRW", "-7 KRW"),
            (1_250, "KWD", "1.250 KWD"),
            (12, "KWD", "0.012 KWD"),
            (i64::MAX, "USD", "$92,233,720,368,547,758.07"),
            (i64::MIN, "JPY", "-9,223,372,036,854,775,808 JPY"),
        ] {
            let currency: Currency = from_value(json!(currency)).unwrap();
            assert_eq!(currency.amount(minor).to_string(), text);
        }
    }

    #[test]
    fn a_currency_is_three_letters() {
        for code in [
            json!("US"),
            json!("USDT"),
            json!("U$D"),
            json!("€"),
            json!(""),
            json!(840),
            json!(null),
        ] {
            assert!(from_value::<Currency>(code).is_err());
        }
    }
}
