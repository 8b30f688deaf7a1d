//! Bounded pages: a query asks for one row more than fits, which tells whether
//! there is a next page.

use crate::{CatalogError, Page, PageRequest, limits};

/// How many items the page may hold.
pub(crate) fn limit(request: &PageRequest) -> u64 {
    request.limit.clamp(1, limits::PAGE_MAX)
}

/// Makes a page of the rows of a query with `limit + 1`.
pub(crate) fn page<R, T>(
    request: &PageRequest,
    mut rows: Vec<R>,
    convert: impl Fn(R) -> Result<T, CatalogError>,
    key: impl Fn(&T) -> &str,
) -> Result<Page<T>, CatalogError> {
    let limit = limit(request) as usize;
    let more = rows.len() > limit;
    rows.truncate(limit);
    let items: Vec<T> = rows.into_iter().map(convert).collect::<Result<_, _>>()?;
    let next = items
        .last()
        .filter(|_| more)
        .map(|item| key(item).to_owned());
    Ok(Page { items, next })
}
