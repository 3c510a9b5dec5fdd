//! The document as a flat list of parts with their paths: for explanations and for telling two documents apart.

use crate::domain::DomainSpec;
use crate::domain::table::{Element, Role, View};

/// One element, attribute or text of the document.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Part {
    /// `devices/disk[0]/driver/@cache`; items of a list are counted from 0, the outermost element has no name.
    pub path: String,
    /// The attribute's value or the element's text; empty for an element without text.
    pub value: String,
}

impl DomainSpec {
    /// Everything [`to_xml`](Self::to_xml) writes, in its order.
    pub fn parts(&self) -> Vec<Part> {
        let mut parts = Vec::new();
        collect("", self, &mut parts);
        parts
    }
}

fn collect(path: &str, element: &dyn Element, parts: &mut Vec<Part>) {
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") };
    let own = parts.len();
    let mut text = String::new();
    parts.push(Part { path: path.to_owned(), value: String::new() });
    element.visit(&mut |row, view| match (&row.role, view) {
        (Role::Attribute { name, omit_empty }, View::Scalar(plain)) => {
            if !(*omit_empty && plain.is_empty()) {
                parts.push(Part { path: below(&format!("@{name}")), value: plain.xml_text().into_owned() });
            }
        }
        (Role::Text, View::Scalar(plain)) => text = plain.xml_text().into_owned(),
        (Role::Child { name, omit_empty, .. }, view) => {
            if !matches!(&view, View::Scalar(plain) if *omit_empty && plain.is_empty()) {
                child(&below(name), view, parts);
            }
        }
        (Role::Path { parent, name }, view) => child(&below(&format!("{parent}/{name}")), view, parts),
        (Role::Attribute { .. } | Role::Text | Role::Tag | Role::JsonOnly, _) => {}
    });
    if let Some(part) = parts.get_mut(own) {
        part.value = text;
    }
}

fn child(path: &str, view: View<'_>, parts: &mut Vec<Part>) {
    match view {
        View::Absent => {}
        View::Scalar(plain) => parts.push(Part { path: path.to_owned(), value: plain.xml_text().into_owned() }),
        View::Element(element) => collect(path, element, parts),
        View::List(items) => {
            for (index, item) in items.into_iter().enumerate() {
                child(&format!("{path}[{index}]"), item, parts);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_has_its_path_and_value() {
        let xml = "<domain type='kvm'><os><type arch='x'>hvm</type></os><sysinfo type='s'><system>\
                   <entry name='n'>v</entry></system></sysinfo><devices><disk/><disk device='cdrom'/></devices></domain>";
        let parts = DomainSpec::from_xml(xml).unwrap().parts();
        let value = |path: &str| parts.iter().find(|part| part.path == path).map(|part| part.value.as_str());
        assert_eq!(value("@type"), Some("kvm"));
        assert_eq!(value("os/type"), Some("hvm"));
        assert_eq!(value("os/type/@arch"), Some("x"));
        assert_eq!(value("sysinfo/system/entry[0]"), Some("v"));
        assert_eq!(value("devices/disk[1]/@device"), Some("cdrom"));
        assert_eq!(value("devices/disk[0]/source"), Some(""));
        assert_eq!(value("uuid"), None);
    }
}
