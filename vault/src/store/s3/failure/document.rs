//! What answers carry: documents of a few elements, checksums in headers.

use base64::Engine as _;

/// Whether a service says in its own words that there is no room.
pub(super) fn says_full(document: &str) -> bool {
    let document = document.to_ascii_lowercase();
    [
        "no space left",
        "storage cap exceeded",
        "quota exceeded",
        "disk full",
    ]
    .iter()
    .any(|words| document.contains(words))
}

/// The text of the first element of that name.
pub(super) fn tag(document: &str, name: &str) -> Option<String> {
    let text = between(document, &format!("<{name}>"), &format!("</{name}>"))?;
    let plain = text
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&apos;", "'")
        .replace("&amp;", "&");
    Some(plain.trim().to_owned())
}

/// What stands between two texts.
pub(super) fn between<'a>(text: &'a str, start: &str, end: &str) -> Option<&'a str> {
    let from = text.find(start)? + start.len();
    let length = text[from..].find(end)?;
    Some(&text[from..from + length])
}

/// A checksum as headers carry it, in the form of an ETag.
pub(in crate::store::s3) fn hex_of_base64(text: &str) -> Option<String> {
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(text)
        .ok()?;
    Some(hex::encode(bytes))
}
