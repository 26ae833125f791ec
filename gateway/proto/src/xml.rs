//! XML of a few elements from a machine that may be hostile: bounds first, then roxmltree.
//!
//! A scan without recursion and without memory refuses everything that messages of §3 of PROTOCOL never need:
//! other encodings than UTF-8, an internal DTD subset (and so every entity beyond the five), nesting past 32
//! levels, many elements or attributes (reading namespaces takes quadratic time in their number). It need not be a
//! full parser: what it lets through roxmltree checks again. Nothing is ever fetched.

use alloc::string::String;

use roxmltree::{Document, Node, ParsingOptions};

use crate::Malformed;

/// Deepest nesting of elements.
pub(crate) const DEPTH_MAX: usize = 32;
/// Most elements of a document.
pub(crate) const ELEMENTS_MAX: usize = 512;
/// Most attributes of a document, namespace declarations included.
pub(crate) const ATTRIBUTES_MAX: usize = 256;
/// Nodes of roxmltree: elements and their attributes apart, comments and texts count too.
const NODES_MAX: u32 = 4096;

const ILLEGAL: Malformed = Malformed::Illegal { what: "XML document" };
const TRUNCATED: Malformed = Malformed::Truncated { what: "XML document" };

/// Reads `bytes` as a document of at most `limit` bytes.
///
/// # Errors
/// `TooLong` past a bound, `Truncated` for a construct that does not end, `Illegal` for the rest.
pub(crate) fn parse(bytes: &[u8], limit: usize) -> Result<Document<'_>, Malformed> {
    if bytes.len() > limit {
        return Err(Malformed::TooLong { what: "XML document", limit });
    }
    let text = core::str::from_utf8(bytes).map_err(|_| Malformed::Illegal { what: "XML encoding" })?;
    scan(text)?;
    let options = ParsingOptions { allow_dtd: true, nodes_limit: NODES_MAX, ..ParsingOptions::default() };
    Document::parse_with_options(text, options).map_err(|error| {
        use roxmltree::Error::{UnclosedRootNode, UnexpectedEndOfStream};
        if matches!(error, UnexpectedEndOfStream | UnclosedRootNode) { TRUNCATED } else { ILLEGAL }
    })
}

/// Elements of this local name, whatever its case and namespace, in document order.
pub(crate) fn named<'a, 'i>(
    parent: Node<'a, 'i>,
    name: &'static str,
) -> impl Iterator<Item = Node<'a, 'i>> + use<'a, 'i> {
    parent.descendants().filter(move |node| is(*node, name))
}

pub(crate) fn is(node: Node<'_, '_>, name: &str) -> bool {
    node.is_element() && node.tag_name().name().eq_ignore_ascii_case(name)
}

/// All text inside an element, without the white space around it. Comments inside do not count.
pub(crate) fn text(node: Node<'_, '_>) -> String {
    let mut all = String::new();
    for text in node.descendants().filter(Node::is_text).filter_map(|node| node.text()) {
        all.push_str(text);
    }
    String::from(all.trim())
}

/// Appends `text` with the five special characters escaped and illegal ones left out.
pub(crate) fn escape(to: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '&' => to.push_str("&amp;"),
            '<' => to.push_str("&lt;"),
            '>' => to.push_str("&gt;"),
            '"' => to.push_str("&quot;"),
            '\'' => to.push_str("&apos;"),
            // As references, so that neither parsing nor attribute rules change them.
            '\r' => to.push_str("&#13;"),
            '\n' => to.push_str("&#10;"),
            '\t' => to.push_str("&#9;"),
            '\0'..='\u{1F}' | '\u{FFFE}' | '\u{FFFF}' => {}
            other => to.push(other),
        }
    }
}

/// Checks the bounds in one pass over the text. Entities need no look: without an internal subset roxmltree knows
/// the five and character references only.
fn scan(text: &str) -> Result<(), Malformed> {
    let mut rest = text.strip_prefix('\u{FEFF}').unwrap_or(text);
    if let Some(declaration) = rest.strip_prefix("<?xml").filter(|after| after.starts_with(is_space)) {
        let (declaration, after) = declaration.split_once("?>").ok_or(TRUNCATED)?;
        check_encoding(declaration)?;
        rest = after;
    }
    let mut bounds = Bounds::default();
    while let Some((_, markup)) = rest.split_once('<') {
        rest = bounds.markup(markup)?;
    }
    Ok(())
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

/// The text is UTF-8 by now, so a declaration of anything else lies. US-ASCII is part of UTF-8.
fn check_encoding(declaration: &str) -> Result<(), Malformed> {
    let Some((_, after)) = declaration.split_once("encoding") else { return Ok(()) };
    let value =
        after.trim_start_matches(is_space).strip_prefix('=').unwrap_or(after).trim_start_matches(is_space);
    let name = value.split(['"', '\'']).nth(1).unwrap_or_default();
    let known = ["utf-8", "utf8", "us-ascii", "ascii"].iter().any(|known| name.eq_ignore_ascii_case(known));
    if known { Ok(()) } else { Err(Malformed::Illegal { what: "XML encoding" }) }
}

#[derive(Default)]
struct Bounds {
    depth: usize,
    elements: usize,
    attributes: usize,
}

impl Bounds {
    /// Passes over one construct after its `<` and returns what follows it.
    fn markup<'a>(&mut self, markup: &'a str) -> Result<&'a str, Malformed> {
        let after = |text: &'a str, end| text.split_once(end).map(|(_, after)| after).ok_or(TRUNCATED);
        if let Some(comment) = markup.strip_prefix("!--") {
            return after(comment, "-->");
        }
        if let Some(data) = markup.strip_prefix("![CDATA[") {
            return after(data, "]]>");
        }
        if let Some(instruction) = markup.strip_prefix('?') {
            // A second declaration, or one that does not stand at the start.
            let target = instruction.split(|c| is_space(c) || c == '?').next().unwrap_or_default();
            return if target.eq_ignore_ascii_case("xml") { Err(ILLEGAL) } else { after(instruction, "?>") };
        }
        if let Some(name) = markup.strip_prefix('/') {
            self.depth = self.depth.checked_sub(1).ok_or(ILLEGAL)?;
            return after(name, ">");
        }
        let tag = Tag::read(markup)?;
        if let Some(declaration) = markup.strip_prefix('!') {
            return if declaration.starts_with("DOCTYPE") { Ok(tag.after) } else { Err(ILLEGAL) };
        }
        add(&mut self.elements, 1, ELEMENTS_MAX, "XML element list")?;
        add(&mut self.attributes, tag.quoted, ATTRIBUTES_MAX, "XML attribute list")?;
        if !tag.empty {
            add(&mut self.depth, 1, DEPTH_MAX, "XML nesting")?;
        }
        Ok(tag.after)
    }
}

fn add(counter: &mut usize, n: usize, limit: usize, what: &'static str) -> Result<(), Malformed> {
    *counter = counter.saturating_add(n);
    if *counter > limit { Err(Malformed::TooLong { what, limit }) } else { Ok(()) }
}

/// A start tag or a DOCTYPE, from after its `<` to its `>`.
struct Tag<'a> {
    /// How many quoted values it has.
    quoted: usize,
    /// Whether it ends with `/>`.
    empty: bool,
    after: &'a str,
}

impl<'a> Tag<'a> {
    fn read(text: &'a str) -> Result<Self, Malformed> {
        let mut tag = Self { quoted: 0, empty: false, after: "" };
        let mut quote = None;
        for (at, byte) in text.bytes().enumerate() {
            if quote.is_some() {
                quote = quote.filter(|open| *open != byte);
                continue;
            }
            match byte {
                b'"' | b'\'' => {
                    quote = Some(byte);
                    tag.quoted = tag.quoted.saturating_add(1);
                }
                b'>' => {
                    tag.after = text.get(at.saturating_add(1)..).unwrap_or_default();
                    return Ok(tag);
                }
                b'<' => return Err(ILLEGAL),
                b'[' => {
                    // Outside quotes it begins an internal subset.
                    let what = if text.starts_with('!') { "XML DOCTYPE" } else { "XML document" };
                    return Err(Malformed::Illegal { what });
                }
                _ => {}
            }
            tag.empty = byte == b'/';
        }
        Err(TRUNCATED)
    }
}

#[cfg(test)]
mod tests;
