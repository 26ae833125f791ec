use alloc::format;
use alloc::string::ToString as _;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;

const LIMIT: usize = 64 * 1024;

fn read(xml: &str) -> Result<String, Malformed> {
    parse(xml.as_bytes(), LIMIT).map(|document| text(document.root_element()))
}

fn refused(xml: &str) -> Malformed {
    read(xml).unwrap_err()
}

#[test]
fn a_document_is_read() {
    assert_eq!(read("\u{FEFF}<?xml version=\"1.0\"?><a x='1'>\r\n b </a>"), Ok("b".to_string()));
    assert_eq!(read("<!DOCTYPE a SYSTEM \"a>.dtd\"><a>&lt;&#65;&#x42;&quot;</a>"), Ok("<AB\"".to_string()));
    assert_eq!(read("<!DOCTYPE a PUBLIC 'p' 'q'><!-- c --><?pi?><a/>"), Ok(String::new()));
}

#[test]
fn cdata_is_text_and_comments_are_not() {
    assert_eq!(read("<a>x<![CDATA[<&]]]>y<!-- no <b> -->z</a>"), Ok("x<&]yz".to_string()));
    assert_eq!(read("<a>10.0.0.1<!-- :1 -->:1494</a>"), Ok("10.0.0.1:1494".to_string()));
}

#[test]
fn names_compare_without_case_and_namespace() {
    let bytes = b"<s:Root xmlns:s='urn:x'><s:item>1</s:item><ITEM>2</ITEM></s:Root>";
    let document = parse(bytes, LIMIT).unwrap();
    assert_eq!(named(document.root(), "Item").map(text).collect::<Vec<_>>(), ["1", "2"]);
}

#[test]
fn billion_laughs_are_refused() {
    let mut xml = String::from("<?xml version=\"1.0\"?><!DOCTYPE lolz [<!ENTITY lol0 \"lol\">");
    for i in 1..10 {
        let references = format!("&lol{};", i - 1).repeat(10);
        xml.push_str(&format!("<!ENTITY lol{i} \"{references}\">"));
    }
    xml.push_str("]><lolz>&lol9;</lolz>");
    assert_eq!(refused(&xml), Malformed::Illegal { what: "XML DOCTYPE" });
}

#[test]
fn every_internal_subset_is_refused() {
    for xml in [
        "<!DOCTYPE a []><a/>",
        "<!DOCTYPE a [<!ELEMENT a ANY>]><a/>",
        "<!DOCTYPE a SYSTEM \"x\" [<!ENTITY b \"c\">]><a>&b;</a>",
        "<!DOCTYPE a [<!ENTITY b SYSTEM \"file:///etc/passwd\">]><a>&b;</a>",
        "<!DOCTYPE a [<!ENTITY % b SYSTEM \"http://example.com/\"> %b;]><a/>",
        "<!DOCTYPE a\n[\n]><a/>",
        "<!DOCTYPE a [<!-- > --> ]><a/>",
        "<!DOCTYPE\ta [ ]><a/>",
    ] {
        assert_eq!(refused(xml), Malformed::Illegal { what: "XML DOCTYPE" }, "{xml}");
    }
}

#[test]
fn entities_beyond_the_five_are_unknown() {
    for xml in [
        "<a>&#0;</a>",
        "<a>&#x1B;</a>",
        "<a>&b;</a>",
        "<a>&nbsp;</a>",
        "<a b='&c;'/>",
        "<a>& </a>",
        "<a>&</a>",
    ] {
        assert_eq!(refused(xml), ILLEGAL, "{xml}");
    }
}

#[test]
fn a_reference_to_half_a_character_is_read_safely() {
    assert_eq!(read("<a>&#xD800;</a>"), Ok("\u{FFFD}".to_string()));
}

#[test]
fn nesting_ends_at_32_levels() {
    let nested = |depth: usize| format!("{}{}", "<a>".repeat(depth), "</a>".repeat(depth));
    assert!(read(&nested(DEPTH_MAX)).is_ok());
    assert_eq!(refused(&nested(DEPTH_MAX + 1)), Malformed::TooLong { what: "XML nesting", limit: DEPTH_MAX });
    // An element without content is one level deeper, but nothing can nest in it.
    assert!(read(&nested(DEPTH_MAX).replace("<a></a>", "<a><b/></a>")).is_ok());
}

#[test]
fn nesting_of_100_000_levels_is_refused_without_recursion() {
    for unit in ["<a>", "<a b='/'>", "<a b=\"/>\">", "<a\n>", "<a / >"] {
        let xml = unit.repeat(100_000);
        let error = parse(xml.as_bytes(), usize::MAX).unwrap_err();
        assert_eq!(error, Malformed::TooLong { what: "XML nesting", limit: DEPTH_MAX }, "{unit}");
        assert_eq!(refused(&xml), Malformed::TooLong { what: "XML document", limit: LIMIT }, "{unit}");
    }
}

#[test]
fn elements_and_attributes_are_counted() {
    let elements = |n: usize| format!("<a>{}</a>", "<b/>".repeat(n - 1));
    assert!(read(&elements(ELEMENTS_MAX)).is_ok());
    assert_eq!(
        refused(&elements(ELEMENTS_MAX + 1)),
        Malformed::TooLong { what: "XML element list", limit: ELEMENTS_MAX }
    );
    let attributes = |n: usize| {
        let all: String = (0..n).map(|i| format!(" x{i}='1'")).collect();
        format!("<a{all}/>")
    };
    assert!(read(&attributes(ATTRIBUTES_MAX)).is_ok());
    assert_eq!(
        refused(&attributes(ATTRIBUTES_MAX + 1)),
        Malformed::TooLong { what: "XML attribute list", limit: ATTRIBUTES_MAX }
    );
}

#[test]
fn many_comments_and_texts_are_refused() {
    let xml = format!("<a>{}</a>", "x<?p?>".repeat(NODES_MAX.try_into().unwrap()));
    assert_eq!(refused(&xml), ILLEGAL);
}

#[test]
fn a_document_has_at_most_the_given_size() {
    let xml = format!("<a>{}</a>", "x".repeat(93));
    assert!(parse(xml.as_bytes(), 100).is_ok());
    assert_eq!(
        parse(xml.as_bytes(), 99).unwrap_err(),
        Malformed::TooLong { what: "XML document", limit: 99 }
    );
}

#[test]
fn other_encodings_are_refused() {
    let wide: Vec<u8> = "\u{FEFF}<a/>".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let big: Vec<u8> = "\u{FEFF}<a/>".encode_utf16().flat_map(u16::to_be_bytes).collect();
    let bare: Vec<u8> = "<?xml version=\"1.0\"?><a/>".encode_utf16().flat_map(u16::to_le_bytes).collect();
    for bytes in [&wide[..], &big, &bare, b"<a>\xE9</a>", b"<a>\xED\xA0\x80</a>", b"\xFF\xFE"] {
        assert!(parse(bytes, LIMIT).is_err(), "{bytes:02x?}");
    }
    for name in ["UTF-16", "utf-16le", "ISO-8859-1", "windows-1252", "UTF-7", "", "ucs-4", "utf-8 "] {
        let encoding = Malformed::Illegal { what: "XML encoding" };
        assert_eq!(refused(&format!("<?xml version='1.0' encoding='{name}'?><a/>")), encoding, "{name}");
        assert_eq!(
            refused(&format!("<?xml version=\"1.0\"\tencoding = \"{name}\"?><a/>")),
            encoding,
            "{name}"
        );
    }
    for name in ["UTF-8", "utf-8", "us-ascii", "US-ASCII"] {
        assert!(read(&format!("<?xml version='1.0' encoding='{name}'?><a/>")).is_ok(), "{name}");
        assert!(read(&format!("<?xml version=\"1.0\" encoding = \"{name}\" ?><a/>")).is_ok(), "{name}");
    }
}

#[test]
fn a_document_cut_at_any_byte_is_refused() {
    let xml = "<?xml version=\"1.0\" encoding=\"utf-8\"?><!DOCTYPE a SYSTEM 'b'><!-- c --><a b='c'>\
        <![CDATA[d]]>&amp;é<?p q?><e/></a>";
    assert!(read(xml).is_ok());
    for end in 0..xml.len() {
        assert!(parse(&xml.as_bytes()[..end], LIMIT).is_err(), "{end}");
    }
}

#[test]
fn documents_that_are_not_well_formed_are_refused() {
    for xml in [
        "",
        "   ",
        "text",
        "<a>",
        "</a>",
        "<a></b>",
        "<a/><b/>",
        "<a/>text",
        "<a b='1' b='2'/>",
        "<a xmlns:x='u' xmlns:y='u' x:b='1' y:b='2'/>",
        "<a b=1/>",
        "<a b/>",
        "<a b='<'/>",
        "<a <b/>/>",
        "<a b='1'c='2'>",
        "<x:a/>",
        "<a>]]></a>",
        "<a>\u{1}</a>",
        "<a>\u{FFFF}</a>",
        "<a><!-- -- --></a>",
        "<a><!DOCTYPE a></a>",
        "<a/><!DOCTYPE a>",
        "<!DOCTYPE a><!DOCTYPE a><a/>",
        "<!ENTITY b 'c'><a/>",
        " <?xml version='1.0'?><a/>",
        "<a><?xml version='1.0'?></a>",
        "<?XML version='1.0'?><a/>",
        "<?xml encoding='utf-8'?><a/>",
        "<![CDATA[x]]>",
        "<1/>",
        "<>",
        "< a/>",
        "<!>",
        "<?",
        "<",
        "&amp;",
        "{\"json\": true}",
        "HTTP/1.1 500 Internal Server Error\r\n\r\n",
    ] {
        assert!(read(xml).is_err(), "{xml}");
    }
}

#[test]
fn many_namespaces_take_no_long_time() {
    // The worst that the bounds allow: each of many elements inherits many declarations and adds one.
    let half = ATTRIBUTES_MAX / 2;
    let declarations: String = (0..half).map(|i| format!(" xmlns:n{i}='u{i}'")).collect();
    let children: String = (0..half).map(|i| format!("<b xmlns:m{i}='v'/>")).collect();
    assert!(read(&format!("<a{declarations}>{children}</a>")).is_ok());
}

#[test]
fn escaped_text_is_read_back() {
    let hard = "<a b=\"c\" d='e'>&amp;]]>\r\n\tü";
    let mut xml = String::from("<a>");
    escape(&mut xml, hard);
    xml.push_str("</a>");
    assert_eq!(read(&xml), Ok(hard.to_string()));
    let mut stripped = String::new();
    escape(&mut stripped, "a\0\u{1B}\u{FFFF}b");
    assert_eq!(stripped, "ab");
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
        drop(parse(&bytes, LIMIT));
    }

    #[test]
    fn arbitrary_markup_never_panics(xml in "([<>/!?&;'\"=\\[\\]\\-a ]|<a>|</a>|<!--|-->|<!\\[CDATA\\[|\\]\\]>|<!DOCTYPE|&amp;|é){0,40}") {
        drop(parse(xml.as_bytes(), LIMIT));
    }

    #[test]
    fn any_escaped_text_is_read_back(hard in "[ -~\r\n\té€😀]{0,60}") {
        let mut xml = String::from("<a b='");
        escape(&mut xml, &hard);
        xml.push_str("'>");
        escape(&mut xml, &hard);
        xml.push_str("</a>");
        let document = parse(xml.as_bytes(), LIMIT).unwrap();
        let root = document.root_element();
        prop_assert_eq!(text(root), hard.trim());
        prop_assert_eq!(root.attribute("b"), Some(hard.as_str()));
    }

    #[test]
    fn nothing_past_the_bounds_is_let_through(parts in proptest::collection::vec(prop_oneof![
        Just("<a>"), Just("</a>"), Just("<b/>"), Just("<a c='>'>"), Just("<!-- <a> -->"), Just("x"), Just("<![CDATA[<a>]]>"),
    ], 0..200)) {
        let xml = parts.concat();
        if let Ok(document) = parse(xml.as_bytes(), LIMIT) {
            let deepest = document.descendants().map(|node| node.ancestors().filter(|n| n.is_element() && n.has_children()).count());
            prop_assert!(deepest.max().unwrap_or(0) <= DEPTH_MAX);
        }
    }
}
