/// The address as SES takes it (the domain in ASCII), or `None` when it can take no mail at all (spec: comms, C2).
pub fn mailable(address: &str) -> Option<String> {
    let (local, domain) = address.rsplit_once('@')?;
    let dotted =
        |part: &str| !part.is_empty() && !part.starts_with('.') && !part.ends_with('.') && !part.contains("..");
    let plain = local
        .bytes()
        .all(|b| b.is_ascii_graphic() && !b"@,;<>()[]\\\"".contains(&b));
    if !dotted(local) || !plain || !dotted(domain) || domain.chars().any(char::is_whitespace) {
        return None;
    }
    let domain = idna::domain_to_ascii_strict(domain)
        .ok()
        .filter(|domain| domain.contains('.'))?;
    let address = format!("{local}@{domain}");
    (address.len() <= 254).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_ses_can_send_to_passes() {
        for good in ["a@x.com", "first.last+tag@sub.example.org", "o'neil@x.ie"] {
            assert_eq!(mailable(good).as_deref(), Some(good));
        }
        assert_eq!(mailable("a@bücher.example").as_deref(), Some("a@xn--bcher-kva.example"));
        let long = format!("{}@x.com", "a".repeat(250));
        for bad in [
            "",
            "a",
            "a@",
            "@x.com",
            "a@x",
            "a b@x.com",
            "a@x .com",
            "a@x..com",
            ".a@x.com",
            "a.@x.com",
            "a@.x.com",
            "ä@x.com",
            "a@b@x.com",
            &long,
        ] {
            assert_eq!(mailable(bad), None, "{bad}");
        }
    }
}
