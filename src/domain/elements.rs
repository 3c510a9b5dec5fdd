//! [`elements!`]: declares structs with their table (see `table`), and how they are read and written as JSON.

/// Declares structs with their table; see the module's text.
macro_rules! elements {
    ($(
        $(#[$meta:meta])*
        pub struct $name:ident {
            $($field:ident: $type:ty = $json:literal [$($role:tt)+];)*
        }
    )*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Default, PartialEq)]
        pub struct $name {
            $(
                #[doc = concat!("`", $json, "` in JSON; in XML: ", stringify!($($role)+), ".")]
                pub $field: $type,
            )*
        }

        impl $crate::domain::table::Element for $name {
            fn visit<'a>(
                &'a self,
                _each: &mut dyn FnMut(&'static $crate::domain::table::Row, $crate::domain::table::View<'a>),
            ) {
                $(_each(
                    &$crate::domain::table::Row { json: $json, role: $crate::domain::elements::role!($($role)+) },
                    $crate::domain::table::Value::view(&self.$field),
                );)*
            }

            fn find(
                &mut self,
                _wanted: &dyn Fn(&$crate::domain::table::Row) -> bool,
            ) -> Option<(&'static $crate::domain::table::Row, $crate::domain::table::Slot<'_>)> {
                $(
                    let row: &'static $crate::domain::table::Row =
                        &$crate::domain::table::Row { json: $json, role: $crate::domain::elements::role!($($role)+) };
                    if _wanted(row) {
                        return Some((row, $crate::domain::table::Value::slot(&mut self.$field)));
                    }
                )*
                None
            }
        }

        $crate::domain::elements::element_traits!($name);
    )*};
}

/// What every [`Element`] gets: it can be a field, and it is read and written as JSON.
macro_rules! element_traits {
    ($name:ident) => {
        impl $crate::domain::table::Value for $name {
            fn view(&self) -> $crate::domain::table::View<'_> {
                $crate::domain::table::View::Element(self)
            }

            fn slot(&mut self) -> $crate::domain::table::Slot<'_> {
                $crate::domain::table::Slot::Element(self)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                $crate::domain::json::to_json(self).serialize(serializer)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let mut element = Self::default();
                let json = serde_json::Value::deserialize(deserializer)?;
                $crate::domain::json::read_json(&mut element, &json).map_err(serde::de::Error::custom)?;
                Ok(element)
            }
        }
    };
}

/// The role as written in the table.
macro_rules! role {
    (attr $name:literal) => {
        $crate::domain::table::Role::Attribute { name: $name, omit_empty: false }
    };
    (attr ? $name:literal) => {
        $crate::domain::table::Role::Attribute { name: $name, omit_empty: true }
    };
    (child $name:literal) => {
        $crate::domain::table::Role::Child { name: $name, omit_empty: false, namespace: None }
    };
    (child ? $name:literal) => {
        $crate::domain::table::Role::Child { name: $name, omit_empty: true, namespace: None }
    };
    (child $name:literal in $namespace:expr) => {
        $crate::domain::table::Role::Child { name: $name, omit_empty: false, namespace: Some($namespace) }
    };
    (path $parent:literal $name:literal) => {
        $crate::domain::table::Role::Path { parent: $parent, name: $name }
    };
    (text) => {
        $crate::domain::table::Role::Text
    };
    (tag) => {
        $crate::domain::table::Role::Tag
    };
    (json) => {
        $crate::domain::table::Role::JsonOnly
    };
}

pub(super) use {element_traits, elements, role};
