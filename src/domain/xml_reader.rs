//! Reads domain XML: libvirt's answers and our own documents (contract/domain-xml-qemu.md 2.1).
//!
//! What the table does not list is ignored, never an error. An element that may occur once and occurs twice is read
//! twice into the same place, so the last one wins field by field.

use quick_xml::NsReader;
use quick_xml::events::{BytesRef, BytesStart, Event};
use quick_xml::name::ResolveResult;

use crate::domain::table::{Element, Role, Scalar, Slot};
use crate::domain::{DomainSpec, QEMU_NAMESPACE};

/// Deeper than any domain document; a deeper one is an attempt on the stack.
const MAX_DEPTH: usize = 64;

/// Why a text is not a domain document.
#[derive(Debug, thiserror::Error)]
pub enum XmlError {
    /// Not well-formed.
    #[error("domain XML, {place}: {cause}")]
    Syntax {
        /// Where the reader was.
        place: Place,
        /// What it met.
        cause: Box<quick_xml::Error>,
    },
    /// A number, time or truth value that is none.
    #[error("domain XML, {place}: {value:?}: {expected}")]
    Value {
        /// Where the value stands.
        place: Place,
        /// The text found.
        value: String,
        /// What should stand there.
        expected: String,
    },
    /// The text ends inside an element.
    #[error("domain XML, {place}: the document ends before the element does")]
    Truncated {
        /// The element that is open.
        place: Place,
    },
    /// More levels than any domain has.
    #[error("domain XML, {place}: elements nested more than {MAX_DEPTH} deep")]
    TooDeep {
        /// Where it became too deep.
        place: Place,
    },
    /// The outermost element is another one, or there is none.
    #[error("domain XML: the outermost element is {found:?}, not \"domain\"")]
    NotADomain {
        /// Its name; empty if there is none.
        found: String,
    },
}

/// A place in the XML text.
#[derive(Debug, Clone, PartialEq)]
pub struct Place {
    /// Counted from 1.
    pub line: usize,
    /// Characters into the line, counted from 1.
    pub column: usize,
    /// The elements around it: `domain/devices/disk`, with `@name` for an attribute.
    pub path: String,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {} column {}, {}", self.line, self.column, self.path)
    }
}

impl DomainSpec {
    /// Reads a domain document as libvirt writes it.
    ///
    /// # Errors
    ///
    /// See [`XmlError`]; unknown elements and attributes are none.
    pub fn from_xml(xml: &str) -> Result<Self, XmlError> {
        let mut spec = Self::default();
        Reader::new(xml, false).document("domain", &mut spec)?;
        Ok(spec)
    }

    /// Reads a document that is to be defined and may have been rewritten on its way (by a hook): like
    /// [`from_xml`](Self::from_xml), and keeps a `qemu:commandline` that holds arguments or variables
    /// (contract/domain-xml-qemu.md 3.1).
    ///
    /// # Errors
    ///
    /// As [`from_xml`](Self::from_xml).
    pub fn from_define_xml(xml: &str) -> Result<Self, XmlError> {
        let mut spec = Self::default();
        Reader::new(xml, true).document("domain", &mut spec)?;
        spec.keep_command_line(spec.qemu_cmd.clone());
        Ok(spec)
    }

    fn keep_command_line(&mut self, command_line: Option<crate::domain::Commandline>) {
        self.qemu_cmd = command_line.filter(|line| !line.qemu_arg.is_empty() || !line.qemu_env.is_empty());
        self.xml_ns = if self.qemu_cmd.is_some() { QEMU_NAMESPACE.to_owned() } else { String::new() };
    }
}

struct Reader<'i> {
    text: &'i str,
    xml: NsReader<&'i [u8]>,
    /// Names of the open elements.
    path: Vec<String>,
    /// Whether `qemu:` elements are read.
    qemu: bool,
}

impl<'i> Reader<'i> {
    fn new(text: &'i str, qemu: bool) -> Self {
        let mut xml = NsReader::from_str(text);
        xml.config_mut().expand_empty_elements = true;
        Self { text, xml, path: Vec::new(), qemu }
    }

    fn document(&mut self, name: &str, element: &mut dyn Element) -> Result<(), XmlError> {
        loop {
            match self.next()? {
                Event::Start(start) if start.local_name().as_ref() == name => return self.element(&start, element),
                Event::Start(start) => {
                    return Err(XmlError::NotADomain { found: start.local_name().as_ref().to_owned() });
                }
                Event::Eof => return Err(XmlError::NotADomain { found: String::new() }),
                Event::Decl(_)
                | Event::Text(_)
                | Event::CData(_)
                | Event::GeneralRef(_)
                | Event::Comment(_)
                | Event::PI(_)
                | Event::DocType(_)
                | Event::Empty(_)
                | Event::End(_) => {}
            }
        }
    }

    /// Reads the element whose start tag was read, up to its end.
    fn element(&mut self, start: &BytesStart<'_>, element: &mut dyn Element) -> Result<(), XmlError> {
        self.enter(start)?;
        if let Some((_, Slot::Element(tag))) = element.find(&|row| row.role == Role::Tag)
            && let Some((_, Slot::Scalar(local))) = tag.find(&|row| row.role == Role::Text)
        {
            self.fill(local, start.local_name().as_ref())?;
        }
        self.attributes(start, element)?;
        let mut text = String::new();
        while let Some(start) = self.child(&mut text)? {
            let namespace = self.namespace(&start);
            let local = start.local_name();
            let name = if namespace == QEMU_NAMESPACE && self.qemu {
                format!("qemu:{}", local.as_ref())
            } else {
                local.as_ref().to_owned()
            };
            let found = element.find(&|row| match &row.role {
                Role::Child { name: wanted, namespace: Some(within), .. } => *wanted == name && *within == namespace,
                Role::Child { name: wanted, namespace: None, .. } => *wanted == name,
                Role::Path { parent, .. } => *parent == name,
                Role::Attribute { .. } | Role::Text | Role::Tag | Role::JsonOnly => false,
            });
            match found {
                None => self.skip(&start)?,
                Some((row, Slot::List(list))) => match &row.role {
                    Role::Path { name, .. } => self.path_list(&start, name, list)?,
                    _ => self.slot(&start, list.push())?,
                },
                Some((_, slot)) => self.slot(&start, slot)?,
            }
        }
        if let Some((_, Slot::Scalar(scalar))) = element.find(&|row| row.role == Role::Text) {
            self.fill(scalar, &text)?;
        }
        self.path.pop();
        Ok(())
    }

    fn attributes(&mut self, start: &BytesStart<'_>, element: &mut dyn Element) -> Result<(), XmlError> {
        for attribute in start.attributes() {
            let attribute = attribute.map_err(|error| self.syntax(error.into()))?;
            if attribute.key.as_namespace_binding().is_some() {
                continue;
            }
            let local = attribute.key.local_name();
            let wanted = element.find(&|row| match &row.role {
                Role::Attribute { name, .. } => *name == local.as_ref(),
                Role::Child { .. } | Role::Path { .. } | Role::Text | Role::Tag | Role::JsonOnly => false,
            });
            if let Some((_, Slot::Scalar(scalar))) = wanted {
                let value = quick_xml::escape::unescape(&attribute.value)
                    .map_err(|error| self.syntax(quick_xml::Error::Escape(error)))?;
                self.path.push(format!("@{}", local.as_ref()));
                self.fill(scalar, &value)?;
                self.path.pop();
            }
        }
        Ok(())
    }

    fn slot(&mut self, start: &BytesStart<'_>, slot: Slot<'_>) -> Result<(), XmlError> {
        match slot {
            Slot::Element(element) => self.element(start, element),
            Slot::Scalar(scalar) => {
                self.enter(start)?;
                let mut text = String::new();
                while let Some(start) = self.child(&mut text)? {
                    self.skip(&start)?;
                }
                self.fill(scalar, &text)?;
                self.path.pop();
                Ok(())
            }
            // A list of lists does not exist in the table.
            Slot::List(_) => self.skip(start),
        }
    }

    /// Reads `<start><name>…</name>…</start>` into a list.
    fn path_list(
        &mut self,
        start: &BytesStart<'_>,
        name: &str,
        list: &mut dyn crate::domain::table::List,
    ) -> Result<(), XmlError> {
        self.enter(start)?;
        let mut ignored = String::new();
        while let Some(start) = self.child(&mut ignored)? {
            if start.local_name().as_ref() == name {
                self.slot(&start, list.push())?;
            } else {
                self.skip(&start)?;
            }
        }
        self.path.pop();
        Ok(())
    }

    /// The next child's start tag; text on the way is added to `text`. `None` at the end of the element.
    fn child(&mut self, text: &mut String) -> Result<Option<BytesStart<'i>>, XmlError> {
        loop {
            match self.next()? {
                // Empty elements are expanded, so `Empty` does not come.
                Event::Start(start) | Event::Empty(start) => return Ok(Some(start)),
                Event::End(_) => return Ok(None),
                Event::Eof => return Err(XmlError::Truncated { place: self.place(self.xml.buffer_position()) }),
                Event::Text(part) => text.push_str(&part.xml10_content()),
                Event::CData(part) => text.push_str(&part.xml10_content()),
                Event::GeneralRef(reference) => self.reference(&reference, text)?,
                Event::Comment(_) | Event::PI(_) | Event::Decl(_) | Event::DocType(_) => {}
            }
        }
    }

    /// Resolves `&name;` or `&#number;`.
    fn reference(&self, reference: &BytesRef<'_>, text: &mut String) -> Result<(), XmlError> {
        let value = quick_xml::escape::unescape(&format!("&{};", reference.as_ref() as &str))
            .map_err(|error| self.syntax(quick_xml::Error::Escape(error)))?
            .into_owned();
        text.push_str(&value);
        Ok(())
    }

    fn skip(&mut self, start: &BytesStart<'_>) -> Result<(), XmlError> {
        match self.xml.read_to_end(start.to_end().name()) {
            Ok(_) => Ok(()),
            Err(error) => Err(self.syntax(error)),
        }
    }

    fn next(&mut self) -> Result<Event<'i>, XmlError> {
        self.xml.read_event().map_err(|error| self.syntax(error))
    }

    fn enter(&mut self, start: &BytesStart<'_>) -> Result<(), XmlError> {
        self.path.push(start.local_name().as_ref().to_owned());
        if self.path.len() > MAX_DEPTH {
            return Err(XmlError::TooDeep { place: self.place(self.xml.buffer_position()) });
        }
        Ok(())
    }

    /// The namespace of an element; an undeclared prefix stands for itself.
    fn namespace(&self, start: &BytesStart<'_>) -> String {
        match self.xml.resolver().resolve_element(start.name()).0 {
            ResolveResult::Unbound => String::new(),
            ResolveResult::Bound(namespace) => namespace.0.to_owned(),
            ResolveResult::Unknown(prefix) => prefix,
        }
    }

    fn fill(&self, scalar: &mut dyn Scalar, text: &str) -> Result<(), XmlError> {
        scalar.read_text(text).map_err(|expected| XmlError::Value {
            place: self.place(self.xml.buffer_position()),
            value: text.to_owned(),
            expected,
        })
    }

    fn syntax(&self, error: quick_xml::Error) -> XmlError {
        XmlError::Syntax { place: self.place(self.xml.error_position()), cause: Box::new(error) }
    }

    fn place(&self, offset: u64) -> Place {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX).min(self.text.len());
        let before = String::from_utf8_lossy(&self.text.as_bytes()[..offset]);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Place {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            path: if self.path.is_empty() { "outside any element".to_owned() } else { self.path.join("/") },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> DomainSpec {
        DomainSpec::from_xml(&format!("<domain type='kvm'>{body}</domain>")).unwrap()
    }

    #[test]
    fn what_the_table_does_not_list_is_ignored() {
        let spec =
            read("<title>x</title><name>a</name><devices><disk foo='1'><mirror><source/></mirror></disk></devices>");
        assert_eq!(spec.name, "a");
        assert_eq!(spec.devices.disks.len(), 1);
        assert_eq!(spec.xml_name.local, "domain");
    }

    #[test]
    fn of_two_elements_the_last_wins_field_by_field() {
        let spec = read("<memory unit='KiB'>1</memory><memory>2</memory><os><type arch='a'>x</type></os><os/>");
        assert_eq!((spec.memory.value, spec.memory.unit.as_str()), (2, "KiB"));
        assert_eq!((spec.os.type_.os.as_str(), spec.os.type_.arch.as_str()), ("x", "a"));
    }

    #[test]
    fn user_prefix_of_an_alias_is_taken_off() {
        let spec = read("<devices><disk><alias name='ua-root'/></disk><disk><alias name='ide0'/></disk></devices>");
        let aliases: Vec<_> = spec.devices.disks.iter().filter_map(|disk| disk.alias.clone()).collect();
        assert_eq!(aliases, [crate::domain::Alias::user("root"), crate::domain::Alias::bare("ide0")]);
    }

    #[test]
    fn metadata_is_read_in_its_namespace_only() {
        let ours = read("<metadata><k:kubevirt xmlns:k='http://kubevirt.io'><uid>u</uid></k:kubevirt></metadata>");
        assert_eq!(ours.metadata.kubevirt.uid, "u");
        let other = read("<metadata><kubevirt xmlns='http://example.org'><uid>u</uid></kubevirt></metadata>");
        assert_eq!(other.metadata.kubevirt.uid, "");
    }

    #[test]
    fn command_line_of_live_xml_is_not_read_and_that_of_a_define_is() {
        let xml = "<domain xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'>\
                   <q:commandline><q:arg value='-S'/></q:commandline></domain>";
        assert_eq!(DomainSpec::from_xml(xml).unwrap().qemu_cmd, None);
        let define = DomainSpec::from_define_xml(xml).unwrap();
        assert_eq!(define.qemu_cmd.as_ref().unwrap().qemu_arg[0].value, "-S");
        assert_eq!(define.xml_ns, QEMU_NAMESPACE);
        let again = |define: &DomainSpec| DomainSpec::from_define_xml(&define.to_xml()).unwrap();
        assert_eq!(again(&define).qemu_cmd, define.qemu_cmd);
        let empty = DomainSpec { xml_ns: QEMU_NAMESPACE.to_owned(), ..define };
        let empty = DomainSpec { qemu_cmd: Some(crate::domain::Commandline::default()), ..empty };
        let empty = again(&empty);
        assert_eq!((empty.qemu_cmd, empty.xml_ns), (None, String::new()));
    }

    #[test]
    fn references_and_character_data_are_text() {
        assert_eq!(read("<name>a&amp;&#x41;<![CDATA[<b>]]><!-- no -->c</name>").name, "a&A<b>c");
        assert_eq!(read("<name>\u{1F600}&#34;</name>").name, "\u{1F600}\"");
    }

    #[test]
    fn numbers_may_have_blanks_around_and_nothing_is_zero() {
        assert_eq!(read("<memory>\n 42 \n</memory>").memory.value, 42);
        assert_eq!(read("<memory/>").memory.value, 0);
    }

    fn error(xml: &str) -> String {
        DomainSpec::from_xml(xml).unwrap_err().to_string()
    }

    #[test]
    fn errors_say_where_and_what() {
        assert_eq!(
            error("<domain>\n <cpu><topology sockets='many'/></cpu></domain>"),
            "domain XML, line 2 column 33, domain/cpu/topology/@sockets: \"many\": \
             a number between 0 and 4294967295 is expected"
        );
        assert_eq!(error("<network/>"), "domain XML: the outermost element is \"network\", not \"domain\"");
        assert_eq!(error(""), "domain XML: the outermost element is \"\", not \"domain\"");
        assert!(error("<domain><name>x</nam").contains("line 1 column"), "{}", error("<domain><name>x</nam"));
        assert!(error("<domain><name>x").contains("domain/name"), "{}", error("<domain><name>x"));
        assert!(error("<domain><name>&nope;</name></domain>").contains("nope"));
        assert!(error("<domain><os></cpu></domain>").contains("domain/os"));
    }

    #[test]
    fn very_deep_document_is_refused_and_a_deep_unknown_part_skipped() {
        let deep = "<dataStore><source>".repeat(1000);
        assert!(error(&format!("<domain><devices><disk><source>{deep}")).contains("nested more than 64"));
        let (open, close) = ("<x>".repeat(5000), "</x>".repeat(5000));
        assert_eq!(read(&format!("{open}{close}<name>a</name>")).name, "a");
    }
}
