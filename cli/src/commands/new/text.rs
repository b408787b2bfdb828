//! Where a new job goes in the sources of `shared/jobs`.

use super::name::DOMAINS;

/// How long the heading of a domain is.
const HEADING: usize = 107;
const ALL: &str = "pub const ALL: &[&Spec] = &[";

/// Puts `item` at the end of its domain's part, whose heading is made if need be, in the order of the domains.
pub(super) fn insert(text: &str, domain: &str, item: &str) -> String {
    let (at, heading) = match position(text, domain) {
        Some(start) => (next_part(text, start), String::new()),
        None => {
            let later = DOMAINS.iter().skip_while(|known| **known != domain).skip(1);
            let at = later.filter_map(|domain| position(text, domain)).min();
            (at.unwrap_or(text.len()), heading(domain) + "\n\n")
        }
    };
    let (before, after) = text.split_at(at);
    let text = format!("{}\n\n{heading}{}\n\n{after}", before.trim_end(), item.trim_end());
    text.trim_end().to_owned() + "\n"
}

/// Adds the file of a domain to the list of files, if it is not there; in alphabetical order.
pub(super) fn module(text: &str, domain: &str) -> String {
    [("mod ", ";"), ("pub use ", "::*;")]
        .into_iter()
        .fold(text.to_owned(), |text, (before, after)| {
            let line = format!("{before}{domain}{after}");
            let mut lines: Vec<_> = text.lines().collect();
            let alike = |known: &&str| known.starts_with(before) && known.ends_with(after);
            let Some(first) = lines.iter().position(alike) else {
                return format!("{}\n\n{line}\n", text.trim_end());
            };
            let count = lines[first..].iter().take_while(|known| alike(known)).count();
            if let Err(at) = lines[first..first + count].binary_search(&line.as_str()) {
                lines.insert(first + at, &line);
            }
            lines.join("\n") + "\n"
        })
}

/// Lists every declaration in `ALL`, in the order of the file; nothing when there is no such list.
pub(super) fn list_all(text: &str) -> Option<String> {
    let declared = text
        .lines()
        .filter_map(|line| line.strip_prefix("pub const ")?.split_once(": Job<"));
    let specs: Vec<_> = declared.map(|(constant, _)| format!("{constant}.spec()")).collect();
    splice(text, ALL, "];", |_| specs.join(", "))
}

/// Changes what stands between `opening` and the next `closing`.
fn splice(text: &str, opening: &str, closing: &str, change: impl FnOnce(&str) -> String) -> Option<String> {
    let (before, rest) = text.split_once(opening)?;
    let (inner, after) = rest.split_once(closing)?;
    Some(format!("{before}{opening}{}{closing}{after}", change(inner)))
}

fn heading(domain: &str) -> String {
    format!("{:-<HEADING$}", format!("// {domain} "))
}

fn position(text: &str, domain: &str) -> Option<usize> {
    Some(text.find(&format!("\n// {domain} --"))? + 1)
}

/// Where the part ends that begins at `start`.
fn next_part(text: &str, start: usize) -> usize {
    let positions = DOMAINS.iter().filter_map(|domain| position(text, domain));
    positions
        .filter(|position| *position > start)
        .min()
        .unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(parts: &[(&str, &str)]) -> String {
        let parts = parts
            .iter()
            .map(|(domain, items)| format!("{}\n\n{items}\n", heading(domain)));
        format!("// top\n\n{}", parts.collect::<Vec<_>>().join("\n"))
    }

    #[test]
    fn an_item_goes_to_the_end_of_its_part() {
        let before = file(&[("email", "a"), ("system", "b")]);
        assert_eq!(
            insert(&before, "email", "new\n"),
            file(&[("email", "a\n\nnew"), ("system", "b")])
        );
        assert_eq!(
            insert(&before, "system", "new"),
            file(&[("email", "a"), ("system", "b\n\nnew")])
        );
    }

    #[test]
    fn a_part_is_made_where_its_domain_belongs() {
        let before = file(&[("email", "a"), ("system", "b")]);
        let with = |parts: &[(&str, &str)]| file(parts);
        assert_eq!(
            insert(&before, "assets", "x"),
            with(&[("email", "a"), ("assets", "x"), ("system", "b")])
        );
        assert_eq!(
            insert(&before, "notifications", "x"),
            with(&[("notifications", "x"), ("email", "a"), ("system", "b")])
        );
        assert_eq!(
            insert(&file(&[("email", "a")]), "system", "x"),
            before.replace("\nb\n", "\nx\n")
        );
    }

    #[test]
    fn the_file_of_a_domain_is_listed_once_and_in_its_order() {
        let text = "use x;\n\nmod a;\nmod c;\n\npub use a::*;\npub use c::*;\n";
        let with = "use x;\n\nmod a;\nmod b;\nmod c;\n\npub use a::*;\npub use b::*;\npub use c::*;\n";
        assert_eq!(module(text, "b"), with);
        assert_eq!(module(with, "b"), with);
    }

    #[test]
    fn all_lists_the_declarations_of_the_file() {
        let text = "pub const ALL: &[&Spec] = &[A.spec()];\npub const A: Job<X> = 1;\npub const LIMIT: u8 = 1;\npub const B: Job<Y> = 2;\n";
        assert!(
            list_all(text)
                .unwrap()
                .starts_with("pub const ALL: &[&Spec] = &[A.spec(), B.spec()];\n")
        );
        assert_eq!(list_all("pub const A: Job<X> = 1;"), None);
    }

    /// The real files are as this module expects them.
    #[test]
    fn the_catalog_can_be_extended() {
        let catalog = include_str!("../../../../shared/jobs/src/catalog.rs");
        assert!(
            position(catalog, "notifications").is_some_and(|at| catalog[at..].starts_with(&heading("notifications")))
        );
        let same = |text: &str| text.split_whitespace().collect::<String>().replace(",]", "]");
        assert_eq!(same(&list_all(catalog).unwrap()), same(catalog));
        let messages = include_str!("../../../../shared/jobs/src/messages.rs");
        assert_eq!(module(messages, "email"), messages);
    }
}
