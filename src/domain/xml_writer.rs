//! The document as XML, byte for byte as the original writes it (contract/domain-xml-qemu.md 2).

use crate::domain::DomainSpec;
use crate::domain::table::{Element, Plain, Role, View};

/// Namespace of `qemu:commandline`; what `DomainSpec::xml_ns` holds when there is one.
pub const QEMU_NAMESPACE: &str = "http://libvirt.org/schemas/domain/qemu/1.0";

impl DomainSpec {
    /// The document as XML: one tab per level, no self-closing tags, no newline at the end.
    pub fn to_xml(&self) -> String {
        element_to_xml("domain", self)
    }
}

/// Devices that are attached, updated or detached by themselves.
macro_rules! device_xml {
    ($($device:ident: $name:literal),*) => {
        $(
            impl crate::domain::$device {
                /// The device alone as XML, as libvirt's calls for single devices take it.
                pub fn to_xml(&self) -> String {
                    element_to_xml($name, self)
                }
            }
        )*
    };
}

device_xml!(Disk: "disk", Interface: "interface", HostDevice: "hostdev", MemoryDevice: "memory");

/// One element with all below it, not indented.
pub(super) fn element_to_xml(name: &str, element: &dyn Element) -> String {
    let mut writer = Writer { out: String::with_capacity(8 << 10), depth: 0 };
    writer.element(name, None, element);
    writer.out
}

struct Writer {
    out: String,
    depth: usize,
}

impl Writer {
    fn element(&mut self, name: &str, namespace: Option<&str>, element: &dyn Element) {
        self.indent();
        self.out.push('<');
        self.out.push_str(name);
        if let Some(namespace) = namespace {
            self.attribute("xmlns", namespace);
        }
        element.visit(&mut |row, view| {
            if let (Role::Attribute { name, omit_empty }, View::Scalar(plain)) = (&row.role, view)
                && !(*omit_empty && plain.is_empty())
            {
                self.attribute(name, &plain.xml_text());
            }
        });
        self.out.push('>');
        self.depth += 1;
        let mut children = false;
        element.visit(&mut |row, view| match &row.role {
            Role::Attribute { .. } | Role::Tag | Role::JsonOnly => {}
            Role::Text => {
                if let View::Scalar(plain) = view {
                    escape(&mut self.out, &plain.xml_text());
                }
            }
            Role::Child { name, omit_empty, namespace } => {
                let length = self.out.len();
                self.child(name, *omit_empty, *namespace, view);
                children |= self.out.len() > length;
            }
            Role::Path { parent, name } => {
                children = true;
                self.path(parent, name, view);
            }
        });
        self.depth -= 1;
        if children {
            self.indent();
        }
        self.close(name);
    }

    fn child(&mut self, name: &str, omit_empty: bool, namespace: Option<&str>, view: View<'_>) {
        match view {
            View::Absent => {}
            View::Scalar(plain) if omit_empty && plain.is_empty() => {}
            View::Scalar(plain) => self.leaf(name, &plain),
            View::Element(element) => self.element(name, namespace, element),
            View::List(items) => {
                for item in items {
                    self.child(name, omit_empty, namespace, item);
                }
            }
        }
    }

    fn leaf(&mut self, name: &str, plain: &Plain<'_>) {
        self.indent();
        self.open(name);
        escape(&mut self.out, &plain.xml_text());
        self.close(name);
    }

    fn path(&mut self, parent: &str, name: &str, view: View<'_>) {
        self.indent();
        self.open(parent);
        self.depth += 1;
        let before = self.out.len();
        self.child(name, false, None, view);
        self.depth -= 1;
        if self.out.len() > before {
            self.indent();
        }
        self.close(parent);
    }

    fn attribute(&mut self, name: &str, value: &str) {
        self.out.push(' ');
        self.out.push_str(name);
        self.out.push_str("=\"");
        escape(&mut self.out, value);
        self.out.push('"');
    }

    fn open(&mut self, name: &str) {
        self.out.push('<');
        self.out.push_str(name);
        self.out.push('>');
    }

    fn close(&mut self, name: &str) {
        self.out.push_str("</");
        self.out.push_str(name);
        self.out.push('>');
    }

    fn indent(&mut self) {
        if !self.out.is_empty() {
            self.out.push('\n');
            self.out.extend(std::iter::repeat_n('\t', self.depth));
        }
    }
}

/// Go's escapes, in text and attributes alike.
fn escape(out: &mut String, text: &str) {
    for character in text.chars() {
        let escaped = match character {
            '"' => "&#34;",
            '\'' => "&#39;",
            '&' => "&amp;",
            '<' => "&lt;",
            '>' => "&gt;",
            '\t' => "&#x9;",
            '\n' => "&#xA;",
            '\r' => "&#xD;",
            ' '..='\u{D7FF}' | '\u{E000}'..='\u{FFFD}' | '\u{10000}'..='\u{10FFFF}' => {
                out.push(character);
                continue;
            }
            _ => "\u{FFFD}",
        };
        out.push_str(escaped);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Alias, BootMenu, Commandline, Disk, Memory, SysInfo, VideoModel};

    #[test]
    fn text_and_attributes_are_escaped_alike() {
        let memory = Memory { value: 1, unit: "\"'&<>\t\n\r\u{1}é\u{FFFF}".to_owned() };
        assert_eq!(
            element_to_xml("memory", &memory),
            "<memory unit=\"&#34;&#39;&amp;&lt;&gt;&#x9;&#xA;&#xD;\u{FFFD}é\u{FFFD}\">1</memory>"
        );
    }

    #[test]
    fn absent_pointer_is_left_out_and_a_zero_one_printed() {
        let model = VideoModel { type_: "vga".to_owned(), heads: Some(0), ..Default::default() };
        assert_eq!(element_to_xml("model", &model), "<model type=\"vga\" heads=\"0\"></model>");
        assert_eq!(element_to_xml("bootmenu", &BootMenu::default()), "<bootmenu enable=\"\"></bootmenu>");
    }

    #[test]
    fn parent_of_a_path_list_stands_without_items() {
        let empty = "<sysinfo type=\"\">\n\t<system></system>\n\t<bios></bios>\n\t<baseBoard></baseBoard>\n\t\
                     <chassis></chassis>\n</sysinfo>";
        assert_eq!(element_to_xml("sysinfo", &SysInfo::default()), empty);
    }

    #[test]
    fn alias_carries_the_prefix_only_if_the_user_chose_it() {
        let disk = |alias| element_to_xml("disk", &Disk { alias: Some(alias), ..Default::default() });
        assert!(disk(Alias::user("a")).contains("\n\t<alias name=\"ua-a\"></alias>"));
        assert!(disk(Alias::bare("a")).contains("\n\t<alias name=\"a\"></alias>"));
    }

    #[test]
    fn empty_document_has_what_is_always_there() {
        assert_eq!(
            DomainSpec { qemu_cmd: Some(Commandline::default()), ..Default::default() }.to_xml(),
            "<domain type=\"\">\n\t<name></name>\n\t<memory unit=\"\">0</memory>\n\t<os>\n\t\t<type></type>\n\t</os>\n\t\
             <devices></devices>\n\t<qemu:commandline></qemu:commandline>\n\t<metadata>\n\t\t\
             <kubevirt xmlns=\"http://kubevirt.io\">\n\t\t\t<uid></uid>\n\t\t</kubevirt>\n\t</metadata>\n\t<cpu></cpu>\n</domain>"
        );
    }
}
