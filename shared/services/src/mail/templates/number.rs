//! Numbers as people read them.

/// With digits in groups of three: `1,204`.
pub(super) fn grouped(n: impl Into<i128>) -> String {
    let n = n.into();
    let digits = n.unsigned_abs().to_string();
    let mut grouped = String::from(if n < 0 { "-" } else { "" });
    for (index, digit) in digits.char_indices() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// So many of a thing: `1 message`, `1,204 messages`.
pub(super) fn count(n: u64, thing: &str) -> String {
    format!("{} {thing}{}", grouped(n), if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_read_as_people_write_them() {
        for (n, text) in [
            (0, "0 views"),
            (1, "1 view"),
            (999, "999 views"),
            (1_204, "1,204 views"),
            (1_000_000, "1,000,000 views"),
        ] {
            assert_eq!(count(n, "view"), text);
        }
        assert_eq!(grouped(-123), "-123");
        assert_eq!(grouped(-1_204), "-1,204");
    }
}
