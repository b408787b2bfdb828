//! Files that newer ones have replaced, a week later.

use assets::{Discarded, Superseded};
use runtime::{Page, Swept};
use services::Error;

use crate::Report;

pub(crate) async fn claim(page: &mut Page<'_, Report>) -> Result<(Swept, Vec<Superseded>), Error> {
    let variants = assets::superseded(&mut page.tx, page.as_of, &page.after, page.limit).await?;
    let last = variants.last().map(|variant| (variant.at, variant.id.clone()));
    Ok((Swept::all(variants.len(), last), variants))
}

pub(crate) async fn settle(page: &mut Page<'_, Report>, discarded: Discarded) -> Result<(), Error> {
    page.report.superseded_cleaned += discarded.settle(&mut page.tx).await?;
    page.report.storage_freed += discarded.bytes;
    page.report.errors += discarded.left;
    Ok(())
}
