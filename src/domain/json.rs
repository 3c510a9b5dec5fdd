//! The document as JSON: Go's field names, `null` for what is absent (contract/cmd-server.md 9.1 and 10).

use serde_json::{Map, Value as Json};

use crate::domain::table::{Element, Slot, View};

/// The element as a JSON object.
pub(super) fn to_json(element: &dyn Element) -> Json {
    let mut object = Map::new();
    element.visit(&mut |row, view| {
        if !row.json.is_empty() {
            object.insert(row.json.to_owned(), view_to_json(view));
        }
    });
    Json::Object(object)
}

fn view_to_json(view: View<'_>) -> Json {
    match view {
        View::Absent => Json::Null,
        View::Scalar(plain) => plain.json(),
        View::Element(element) => to_json(element),
        View::List(items) if items.is_empty() => Json::Null,
        View::List(items) => items.into_iter().map(view_to_json).collect(),
    }
}

/// Fills the element from a JSON object: names are case-sensitive, unknown ones are ignored, `null` is absent.
///
/// # Errors
///
/// Text with the path of the value that does not fit and what was expected there.
pub(super) fn read_json(element: &mut dyn Element, json: &Json) -> Result<(), String> {
    let object = json.as_object().ok_or("an object is expected")?;
    for (key, value) in object {
        if value.is_null() {
            continue;
        }
        if let Some((_, slot)) = element.find(&|row| !row.json.is_empty() && row.json == key) {
            read_slot(slot, value).map_err(|error| join(key, &error))?;
        }
    }
    Ok(())
}

fn read_slot(slot: Slot<'_>, json: &Json) -> Result<(), String> {
    match slot {
        Slot::Scalar(scalar) => scalar.read_json(json),
        Slot::Element(element) => read_json(element, json),
        Slot::List(list) => {
            let items = json.as_array().ok_or("an array is expected")?;
            for (index, item) in items.iter().enumerate() {
                let slot = list.push();
                if !item.is_null() {
                    read_slot(slot, item).map_err(|error| join(&format!("[{index}]"), &error))?;
                }
            }
            Ok(())
        }
    }
}

/// Puts a key before an error: `Devices.Disks.[0].Alias: an object is expected`.
fn join(key: &str, error: &str) -> String {
    if error.split(": ").next().is_some_and(|path| !path.contains(' ')) {
        format!("{key}.{error}")
    } else {
        format!("{key}: {error}")
    }
}
