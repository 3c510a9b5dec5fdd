//! Structs that are read from maps alone.
//!
//! A derived deserialiser also takes a list for a struct, field by field in the order of the source, so that a list that a
//! person writes for an object turns into another object. The API server and the original refuse it.

use serde::de::{Deserializer, Visitor};

/// Implements `Deserialize` for structs that derive it with `#[serde(remote = "Self")]`, so that only a map is one.
macro_rules! reads_only_maps {
    ($($name:ident),*) => {
        $(
            impl<'de> ::serde::Deserialize<'de> for $name {
                fn deserialize<D: ::serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                    $name::deserialize($crate::vmi::strict::MapsOnly(deserializer))
                }
            }
        )*
    };
}

/// The same, and `Serialize`, which `remote` takes away too.
macro_rules! only_maps {
    ($name:ident) => {
        impl ::serde::Serialize for $name {
            fn serialize<S: ::serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                $name::serialize(self, serializer)
            }
        }

        $crate::vmi::strict::reads_only_maps!($name);
    };
}
pub(crate) use {only_maps, reads_only_maps};

/// A deserialiser that is asked for a struct and looks for a map.
pub(crate) struct MapsOnly<D>(pub(crate) D);

impl<'de, D: Deserializer<'de>> Deserializer<'de> for MapsOnly<D> {
    type Error = D::Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_map(visitor)
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_any(visitor)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}
