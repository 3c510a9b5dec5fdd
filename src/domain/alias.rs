//! Device aliases and the names elements were read under.

use std::borrow::Cow;

use crate::domain::elements::{element_traits, elements};
use crate::domain::table::{Element, Plain, Role, Row, Scalar, Slot, Value, View};

/// What libvirt demands at the start of an alias that it did not choose itself.
const USER_PREFIX: &str = "ua-";

elements! {
    /// The name an element was read under; empty in a document that was never read.
    pub struct XmlName {
        space: String = "Space" [json];
        local: String = "Local" [text];
    }
}

/// `<alias>`: a device's name, either libvirt's own or the user's (in XML with the prefix `ua-`).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Alias {
    /// Without the prefix.
    pub name: String,
    /// Whether the prefix stands before it in XML.
    pub user_defined: bool,
}

impl Alias {
    /// An alias we chose; libvirt keeps it.
    pub fn user(name: impl Into<String>) -> Self {
        Self { name: name.into(), user_defined: true }
    }

    /// An alias as libvirt writes it, without the prefix.
    pub fn bare(name: impl Into<String>) -> Self {
        Self { name: name.into(), user_defined: false }
    }

    /// The name of a device's alias; empty for a device that has none yet.
    pub(super) fn name_of(alias: Option<&Alias>) -> &str {
        alias.map(|alias| alias.name.as_str()).unwrap_or_default()
    }

    /// The alias as it stands in XML, which is also what libvirt events and statistics carry.
    pub fn xml_name(&self) -> Cow<'_, str> {
        if self.user_defined { Cow::Owned(format!("{USER_PREFIX}{}", self.name)) } else { Cow::Borrowed(&self.name) }
    }

    /// Reads an alias as it stands in XML.
    pub fn from_xml_name(name: &str) -> Self {
        name.strip_prefix(USER_PREFIX).map_or_else(|| Self::bare(name), Self::user)
    }
}

/// In JSON the alias has two fields, in XML one attribute.
static NAME: Row = Row { json: "Name", role: Role::JsonOnly };
static USER_DEFINED: Row = Row { json: "UserDefined", role: Role::JsonOnly };
static XML_NAME: Row = Row { json: "", role: Role::Attribute { name: "name", omit_empty: false } };

impl Element for Alias {
    fn visit<'a>(&'a self, each: &mut dyn FnMut(&'static Row, View<'a>)) {
        each(&NAME, self.name.view());
        each(&USER_DEFINED, self.user_defined.view());
        each(&XML_NAME, View::Scalar(self.plain()));
    }

    fn find(&mut self, wanted: &dyn Fn(&Row) -> bool) -> Option<(&'static Row, Slot<'_>)> {
        if wanted(&NAME) {
            Some((&NAME, self.name.slot()))
        } else if wanted(&USER_DEFINED) {
            Some((&USER_DEFINED, self.user_defined.slot()))
        } else if wanted(&XML_NAME) {
            Some((&XML_NAME, Slot::Scalar(self)))
        } else {
            None
        }
    }
}

/// The attribute `name`.
impl Scalar for Alias {
    fn plain(&self) -> Plain<'_> {
        Plain::Text(self.xml_name())
    }

    fn read_text(&mut self, text: &str) -> Result<(), String> {
        *self = Self::from_xml_name(text);
        Ok(())
    }

    fn read_json(&mut self, _json: &serde_json::Value) -> Result<(), String> {
        Err("the alias has no single JSON value".to_owned())
    }
}

element_traits!(Alias);
