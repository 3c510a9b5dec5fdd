//! The one table from which XML out, XML in, and JSON out and in derive.
//!
//! `elements!` declares structs. Each field carries its Go name, which is its JSON key (contract/cmd-server.md 10),
//! and its role in XML (contract/domain-xml-qemu.md 18):
//!
//! | role | XML |
//! |---|---|
//! | `attr "a"`, `attr? "a"` | an attribute; with `?` left out when empty |
//! | `child "e"`, `child? "e"` | a child element, or one per list item |
//! | `path "p" "e"` | a list of `e` inside one `p`; `p` stands even when the list is empty |
//! | `text` | the element's own text |
//! | `tag` | the name the element was read under; never written |
//! | `json` | not in XML |
//!
//! "Empty" is Go's notion: `""`, 0, false. An absent `Option` is never written and a present one always, so only plain
//! texts, numbers and truth values need the `?`. The order of fields is the order of attributes and of children.
//!
//! The rest of the module is how code walks that table without knowing the structs: [`Element::visit`] to read,
//! [`Element::find`] to fill in.

use std::borrow::Cow;

use serde_json::Value as Json;

use crate::domain::{Time, parse_bool};

/// Namespace of the launcher's own metadata inside the domain document.
pub const KUBEVIRT_NAMESPACE: &str = "http://kubevirt.io";

/// One field: its JSON key ("" = not in JSON) and its role in XML.
#[derive(Debug)]
pub(super) struct Row {
    pub json: &'static str,
    pub role: Role,
}

/// What a field is in XML.
#[derive(Debug, PartialEq)]
pub(super) enum Role {
    Attribute { name: &'static str, omit_empty: bool },
    Child { name: &'static str, omit_empty: bool, namespace: Option<&'static str> },
    Path { parent: &'static str, name: &'static str },
    Text,
    Tag,
    JsonOnly,
}

/// A struct made by `elements!`.
pub(super) trait Element {
    /// Calls `each` with every field in order.
    fn visit<'a>(&'a self, each: &mut dyn FnMut(&'static Row, View<'a>));

    /// The first field whose row is `wanted`, ready to be filled in (an absent `Option` becomes present).
    fn find(&mut self, wanted: &dyn Fn(&Row) -> bool) -> Option<(&'static Row, Slot<'_>)>;
}

/// A field's content as the writers see it.
pub(super) enum View<'a> {
    Absent,
    Scalar(Plain<'a>),
    Element(&'a dyn Element),
    List(Vec<View<'a>>),
}

/// Content without parts.
pub(super) enum Plain<'a> {
    Text(Cow<'a, str>),
    Unsigned(u64),
    Signed(i64),
    Bool(bool),
    Time(&'a Time),
}

impl Plain<'_> {
    /// Go's `omitempty`.
    pub fn is_empty(&self) -> bool {
        match self {
            Plain::Text(text) => text.is_empty(),
            Plain::Unsigned(number) => *number == 0,
            Plain::Signed(number) => *number == 0,
            Plain::Bool(truth) => !truth,
            Plain::Time(_) => false,
        }
    }

    /// The content as XML has it, not yet escaped.
    pub fn xml_text(&self) -> Cow<'_, str> {
        match self {
            Plain::Text(text) => Cow::Borrowed(text),
            Plain::Unsigned(number) => Cow::Owned(number.to_string()),
            Plain::Signed(number) => Cow::Owned(number.to_string()),
            Plain::Bool(truth) => Cow::Borrowed(if *truth { "true" } else { "false" }),
            Plain::Time(time) => Cow::Owned(time.to_xml()),
        }
    }

    /// The content as JSON has it.
    pub fn json(self) -> Json {
        match self {
            Plain::Text(text) => Json::from(text.into_owned()),
            Plain::Unsigned(number) => Json::from(number),
            Plain::Signed(number) => Json::from(number),
            Plain::Bool(truth) => Json::from(truth),
            Plain::Time(time) => Json::from(time.to_string()),
        }
    }
}

/// Where a field's content goes as the readers see it.
pub(super) enum Slot<'a> {
    Scalar(&'a mut dyn Scalar),
    Element(&'a mut dyn Element),
    List(&'a mut dyn List),
}

/// A list that grows by one item at a time.
pub(super) trait List {
    /// Adds an empty item.
    fn push(&mut self) -> Slot<'_>;
}

/// A text, number, truth value or time; errors say what was expected.
pub(super) trait Scalar {
    fn plain(&self) -> Plain<'_>;
    /// Reads XML text; surrounding blanks do not matter to numbers, and no text is zero.
    fn read_text(&mut self, text: &str) -> Result<(), String>;
    fn read_json(&mut self, json: &Json) -> Result<(), String>;
}

/// Anything a field can hold.
pub(super) trait Value {
    fn view(&self) -> View<'_>;
    fn slot(&mut self) -> Slot<'_>;
}

impl<T: Value + Default> Value for Option<T> {
    fn view(&self) -> View<'_> {
        self.as_ref().map_or(View::Absent, Value::view)
    }

    fn slot(&mut self) -> Slot<'_> {
        self.get_or_insert_default().slot()
    }
}

impl<T: Value> Value for Box<T> {
    fn view(&self) -> View<'_> {
        self.as_ref().view()
    }

    fn slot(&mut self) -> Slot<'_> {
        self.as_mut().slot()
    }
}

impl<T: Value + Default> Value for Vec<T> {
    fn view(&self) -> View<'_> {
        View::List(self.iter().map(Value::view).collect())
    }

    fn slot(&mut self) -> Slot<'_> {
        Slot::List(self)
    }
}

impl<T: Value + Default> List for Vec<T> {
    fn push(&mut self) -> Slot<'_> {
        let at = self.len();
        self.push(T::default());
        // The item pushed above.
        self[at].slot()
    }
}

impl Scalar for String {
    fn plain(&self) -> Plain<'_> {
        Plain::Text(Cow::Borrowed(self))
    }

    fn read_text(&mut self, text: &str) -> Result<(), String> {
        text.clone_into(self);
        Ok(())
    }

    fn read_json(&mut self, json: &Json) -> Result<(), String> {
        json.as_str().ok_or("a string is expected")?.clone_into(self);
        Ok(())
    }
}

impl Scalar for bool {
    fn plain(&self) -> Plain<'_> {
        Plain::Bool(*self)
    }

    fn read_text(&mut self, text: &str) -> Result<(), String> {
        *self = match text.trim() {
            "" => false,
            word => parse_bool(word).ok_or("true or false is expected")?,
        };
        Ok(())
    }

    fn read_json(&mut self, json: &Json) -> Result<(), String> {
        *self = json.as_bool().ok_or("true or false is expected")?;
        Ok(())
    }
}

impl Scalar for Time {
    fn plain(&self) -> Plain<'_> {
        Plain::Time(self)
    }

    fn read_text(&mut self, text: &str) -> Result<(), String> {
        *self = text.parse().map_err(|error: super::TimeError| error.to_string())?;
        Ok(())
    }

    fn read_json(&mut self, json: &Json) -> Result<(), String> {
        self.read_text(json.as_str().ok_or("a time is expected")?)
    }
}

macro_rules! integers {
    ($($type:ty => $plain:ident as $wide:ty),*) => {$(
        impl Scalar for $type {
            fn plain(&self) -> Plain<'_> {
                Plain::$plain(<$wide>::from(*self))
            }

            fn read_text(&mut self, text: &str) -> Result<(), String> {
                let text = text.trim();
                *self = if text.is_empty() { 0 } else { text.parse().map_err(|_| Self::expected())? };
                Ok(())
            }

            fn read_json(&mut self, json: &Json) -> Result<(), String> {
                let number = serde_json::from_value::<$type>(json.clone());
                *self = number.map_err(|_| Self::expected())?;
                Ok(())
            }
        }

        impl Expected for $type {
            fn expected() -> String {
                format!("a number between {} and {} is expected", <$type>::MIN, <$type>::MAX)
            }
        }

        scalars!($type);
    )*};
}

/// What to say when a number cannot be read.
trait Expected {
    fn expected() -> String;
}

macro_rules! scalars {
    ($($type:ty),*) => {$(
        impl Value for $type {
            fn view(&self) -> View<'_> {
                View::Scalar(self.plain())
            }

            fn slot(&mut self) -> Slot<'_> {
                Slot::Scalar(self)
            }
        }
    )*};
}

scalars!(String, bool, Time);
integers!(u32 => Unsigned as u64, u64 => Unsigned as u64, i32 => Signed as i64, i64 => Signed as i64);
