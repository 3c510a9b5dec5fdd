//! Real documents, written in many ways, and what changes leave of them.

use proptest::prelude::*;

use super::*;

/// Documents as libvirt writes them, and as this project does.
pub(crate) fn real_documents() -> Vec<String> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = vec![root.join("tests/fuzz/seeds/domain.xml")];
    let golden = std::fs::read_dir(root.join("tests/golden/cases")).unwrap();
    paths.extend(golden.map(|entry| entry.unwrap().path()).filter(|path| path.extension() == Some("xml".as_ref())));
    paths.sort();
    let texts = paths.iter().map(|path| std::fs::read_to_string(path).unwrap());
    texts.flat_map(|text| text.split("<!-- next define -->\n").map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// The same document, written in another way: white space, quotes and order of attributes, comments. `choices` say how;
/// none leaves it as it is.
pub(crate) fn rewritten(text: &str, choices: &[u8]) -> String {
    let document = XmlText::read(text).unwrap();
    let mut choices = choices.iter().copied().cycle();
    let mut edits = Edits::new(&document);
    for (at, element) in document.elements.iter().enumerate() {
        let Some(choice) = choices.next() else { break };
        let space = [" ", "  ", "\n", "\t", "\r\n "][usize::from(choice) % 5];
        let mut attributes: Vec<String> = element
            .attributes
            .iter()
            .map(|attribute| {
                let value = document.part(&attribute.value);
                let quote = if value.contains('\'') || choice & 8 == 0 { '"' } else { '\'' };
                let quote = if value.contains('"') { '\'' } else { quote };
                let equals = if choice & 16 == 0 { "=" } else { " = " };
                format!("{space}{}{equals}{quote}{value}{quote}", document.part(&attribute.name))
            })
            .collect();
        let turn = usize::from(choice) % attributes.len().max(1);
        attributes.rotate_left(turn);
        let end = if element.is_closed_at_once { "/>" } else { ">" };
        let before_end = if choice & 32 == 0 { "" } else { space };
        let comment = if choice & 64 == 0 || at == 0 { "" } else { "<!-- <a b='c'> -->" };
        let tag = format!("{comment}<{}{}{before_end}{end}", document.part(&element.name), attributes.concat());
        edits.changes.push((element.start_tag.clone(), tag));
    }
    edits.finish()
}

proptest! {
    #[test]
    fn real_documents_are_read_however_they_are_written(choices: Vec<u8>, at: prop::sample::Index) {
        let documents = real_documents();
        let text: &String = at.get(&documents);
        let other = rewritten(text, &choices);
        let (document, same) = (XmlText::read(text).unwrap(), XmlText::read(&other).unwrap());
        prop_assert_eq!(&Edits::new(&same).finish(), &other);
        prop_assert_eq!(document.elements.len(), same.elements.len());
        let value = |text: &XmlText<'_>, at| Node { document: text, at }.attribute("name").map(Cow::into_owned);
        for at in 0..document.elements.len() {
            prop_assert_eq!(value(&document, at), value(&same, at));
        }
        let parsed = |text| crate::domain::DomainSpec::from_xml(text).unwrap();
        prop_assert_eq!(parsed(text), parsed(&other));
    }

    #[test]
    fn a_change_leaves_the_rest_as_it_is(choices: Vec<u8>, at: prop::sample::Index) {
        let documents = real_documents();
        let original: &String = at.get(&documents);
        let text = rewritten(original, &choices);
        let document = XmlText::read(&text).unwrap();
        let node = Node { document: &document, at: at.index(document.elements.len()) };
        let mut edits = Edits::new(&document);
        edits.set(node, "mark", "<new>");
        edits.append(node, &["<mark/>".to_owned()]);
        let changed = edits.finish();
        let begin = node.element().unwrap().whole.start;
        prop_assert_eq!(&changed[..begin], &text[..begin]);
        let behind = &text[node.element().unwrap().whole.end..];
        prop_assert!(changed.ends_with(behind));
        // Taking out what was put in gives the text again.
        let again = XmlText::read(&changed).unwrap();
        let node = Node { document: &again, at: node.at };
        prop_assert_eq!(node.attribute("mark").unwrap(), "<new>");
        let mut edits = Edits::new(&again);
        edits.unset(node, "mark");
        edits.remove(node.children().last().unwrap());
        let back = edits.finish();
        let bare = |text: &str| text.split_whitespace().collect::<String>();
        let open = |text: &str, name: &str| bare(text).replace(&format!("></{name}>"), "/>");
        prop_assert_eq!(open(&back, node.name()), open(&text, node.name()));
    }
}

fn changed(text: &str, change: impl for<'d> FnOnce(&mut Edits<'d>, Node<'d>)) -> String {
    let document = XmlText::read(text).unwrap();
    let mut edits = Edits::new(&document);
    change(&mut edits, document.root());
    edits.finish()
}

const DOMAIN: &str = "<?xml version='1.0'?>\n<!-- <x> -->\n<domain type=\"kvm\" >\n  <a>\n    <b c = 'd>'/>\n    \
                      <b c='&lt;'  e=\"f\" />\n  </a>\n  <g/>\n  <h></h>\n</domain>\n<!-- end -->";

#[test]
fn elements_are_found_and_read() {
    let document = XmlText::read(DOMAIN).unwrap();
    let root = document.root();
    assert_eq!((root.name(), root.attribute("type").as_deref()), ("domain", Some("kvm")));
    assert_eq!(root.children().map(Node::name).collect::<Vec<_>>(), ["a", "g", "h"]);
    let values: Vec<_> = root.child("a").unwrap().all("b").map(|b| b.attribute("c").unwrap()).collect();
    assert_eq!(values, ["d>", "<"]);
    assert_eq!(root.find(&["a", "b"]).unwrap().text(), "<b c = 'd>'/>");
    assert!(root.find(&["a", "x"]).is_none() && root.attribute("x").is_none());
}

#[test]
fn what_is_not_changed_stays() {
    assert_eq!(changed(DOMAIN, |_, _| {}), DOMAIN);
    assert_eq!(changed(DOMAIN, |edits, root| edits.set(root, "type", "kvm")), DOMAIN);
}

#[test]
fn attributes_are_set_and_taken_away() {
    let set = changed(DOMAIN, |edits, root| {
        edits.set(root, "type", "<'\">");
        edits.set(root, "id", "1");
        edits.set(root.child("g").unwrap(), "x", "y");
        let second = root.child("a").unwrap().all("b").nth(1).unwrap();
        edits.unset(second, "e");
        edits.set(second, "new", "z");
    });
    let expected = DOMAIN
        .replace("type=\"kvm\" >", "type=\"&lt;&apos;&quot;&gt;\" id='1' >")
        .replace("<g/>", "<g x='y'/>")
        .replace("  e=\"f\" />", " new='z' />");
    assert_eq!(set, expected);
}

#[test]
fn elements_are_put_in_and_taken_away() {
    let one = || vec!["<n/>".to_owned()];
    let set = changed(DOMAIN, |edits, root| {
        edits.append(root.child("a").unwrap(), &one());
        edits.append(root.child("g").unwrap(), &["<n/>".to_owned(), "<m/>".to_owned()]);
        edits.append(root.child("h").unwrap(), &one());
        edits.insert_after(root.child("h").unwrap(), "<i/>");
    });
    let expected = DOMAIN
        .replace("e=\"f\" />\n", "e=\"f\" />\n    <n/>\n")
        .replace("<g/>", "<g>\n    <n/>\n    <m/>\n  </g>")
        .replace("<h></h>", "<h>\n    <n/>\n  </h>\n  <i/>");
    assert_eq!(set, expected);
    let replaced = changed(DOMAIN, |edits, root| {
        let a = root.child("a").unwrap();
        a.all("b").for_each(|b| {
            edits.set(b, "c", "lost");
            edits.remove(b);
        });
        edits.append(a, &one());
    });
    assert!(replaced.contains("<a>\n    <n/>\n  </a>"), "{replaced}");
    assert_eq!(
        changed("<a><b/></a>", |edits, root| edits.append(root.child("b").unwrap(), &one())),
        "<a><b><n/></b></a>"
    );
    assert_eq!(changed("<a>x<b/>y</a>", |edits, root| edits.remove(root.child("b").unwrap())), "<a>xy</a>");
}

#[test]
fn texts_that_are_no_document_are_refused() {
    for (text, expected) in [
        ("", "the XML ends before its outermost element does"),
        ("<a><b></b>", "the XML ends before its outermost element does"),
        ("<a/><b/>", "byte 4 of the XML: a second outermost element"),
        ("<a b/>", "byte 3 of the XML: an attribute without value"),
        ("<a b=c/>", "byte 3 of the XML: an attribute's value without quotes"),
    ] {
        assert_eq!(XmlText::read(text).unwrap_err().to_string(), expected, "{text}");
    }
    assert!(XmlText::read("<a></b>").unwrap_err().to_string().starts_with("byte 3"));
    assert_eq!(XmlText::read(&"<a>".repeat(300)).unwrap_err(), TextError::TooDeep { at: 768 });
}
