use std::time::Duration;

/// What went wrong outside, classified where it arose. The source is not repeated in the text: whoever logs
/// the error walks the chain once ([`Error::chain`]).
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct Error {
    /// What may be done about it.
    pub kind: Kind,
    what: String,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// What may be done about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It failed this time, and may work next time.
    Transient,
    /// The other side asked us to come back later.
    Throttled(Duration),
    /// It never works.
    Permanent,
    /// The call left this process, and whether it had an effect is unknown.
    InDoubt,
}

impl Error {
    /// An error of a kind. `what`: lower case, names the thing.
    pub fn new(kind: Kind, what: impl Into<String>) -> Self {
        Self {
            kind,
            what: what.into(),
            source: None,
        }
    }

    /// May work next time.
    pub fn transient(what: impl Into<String>) -> Self {
        Self::new(Kind::Transient, what)
    }

    /// Never works.
    pub fn permanent(what: impl Into<String>) -> Self {
        Self::new(Kind::Permanent, what)
    }

    /// Adds the cause.
    pub fn caused_by(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The whole chain, joined by `: `.
    pub fn chain(&self) -> String {
        chain(self)
    }
}

/// The texts of an error and its sources, joined by `: `; a source that its parent already quotes is left out.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let part = source.to_string();
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        next = source.source();
    }
    text
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        use sqlx::Error::{ColumnDecode, ColumnNotFound, Configuration, Decode, RowNotFound, TypeNotFound};

        let kind = match &error {
            sqlx::Error::Database(database) => match database.code().as_deref().unwrap_or("") {
                // Data exceptions, integrity violations, errors in the statement itself and values beyond a limit stay
                // what they are.
                code if ["22", "23", "42", "54"].iter().any(|class| code.starts_with(class)) => Kind::Permanent,
                _ => Kind::Transient,
            },
            Configuration(_)
            | RowNotFound
            | TypeNotFound { .. }
            | ColumnNotFound(_)
            | ColumnDecode { .. }
            | Decode(_) => Kind::Permanent,
            _ => Kind::Transient,
        };
        let what = if kind == Kind::Transient {
            "the database did not answer as it should have"
        } else {
            "the database refuses the statement"
        };
        Self::new(kind, what).caused_by(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_names_each_cause_once() {
        let error = Error::transient("mail was not sent").caused_by(Error::transient("connection refused"));
        assert_eq!(error.chain(), "mail was not sent: connection refused");
    }

    #[test]
    fn a_lost_database_is_worth_another_try_and_a_wrong_statement_is_not() {
        assert_eq!(Error::from(sqlx::Error::PoolTimedOut).kind, Kind::Transient);
        assert_eq!(Error::from(sqlx::Error::RowNotFound).kind, Kind::Permanent);
    }
}
