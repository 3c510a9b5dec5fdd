//! libvirt's typed parameters (`virTypedParameter`) as Rust values.
#![allow(unsafe_code, reason = "lists of libvirt's C API")]

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, NulError, c_char, c_int};

use super::error::{VirError, code, last_error};

/// Most parameters of one answer that are kept: a guest decides how many there are.
const MOST: usize = 65_536;

/// One value. Other types than these do not come from the calls that are made here.
#[derive(Debug, Clone, PartialEq)]
pub enum TypedValue {
    /// `int`, `long long` and boolean.
    Int(i64),
    /// `unsigned int` and `unsigned long long`.
    Unsigned(u64),
    /// `double`.
    Double(f64),
    /// A text; invalid UTF-8 is replaced.
    Text(String),
}

/// Parameters by their names, such as `if.0.hwaddr`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Params(BTreeMap<String, TypedValue>);

impl Params {
    /// A text, or none under this name.
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.0.get(name)? {
            TypedValue::Text(text) => Some(text),
            TypedValue::Int(_) | TypedValue::Unsigned(_) | TypedValue::Double(_) => None,
        }
    }

    /// A number that is not negative, whatever its C type.
    pub fn unsigned(&self, name: &str) -> Option<u64> {
        match self.0.get(name)? {
            TypedValue::Unsigned(number) => Some(*number),
            TypedValue::Int(number) => u64::try_from(*number).ok(),
            TypedValue::Double(_) | TypedValue::Text(_) => None,
        }
    }

    /// A number with a sign.
    pub fn int(&self, name: &str) -> Option<i64> {
        match self.0.get(name)? {
            TypedValue::Int(number) => Some(*number),
            TypedValue::Unsigned(number) => i64::try_from(*number).ok(),
            TypedValue::Double(_) | TypedValue::Text(_) => None,
        }
    }

    /// A floating-point number.
    pub fn double(&self, name: &str) -> Option<f64> {
        match self.0.get(name)? {
            TypedValue::Double(number) => Some(*number),
            TypedValue::Int(_) | TypedValue::Unsigned(_) | TypedValue::Text(_) => None,
        }
    }

    /// Whether there is a parameter whose name begins with `prefix`.
    pub fn has_prefix(&self, prefix: &str) -> bool {
        self.0.range(prefix.to_owned()..).next().is_some_and(|(name, _)| name.starts_with(prefix))
    }

    /// Adds the parameters of `other`.
    pub fn extend(&mut self, other: Params) {
        self.0.extend(other.0);
    }

    /// Copies `count` parameters out of libvirt's array.
    ///
    /// # Safety
    ///
    /// `params` is null or points to `count` parameters as libvirt filled them.
    pub(super) unsafe fn copy(params: virt_sys::virTypedParameterPtr, count: c_int) -> Self {
        let count = usize::try_from(count).unwrap_or_default().min(MOST);
        if params.is_null() {
            return Params::default();
        }
        // SAFETY: the caller's promise.
        let params = unsafe { std::slice::from_raw_parts(params, count) };
        // SAFETY: libvirt filled each of them.
        Params(params.iter().filter_map(|param| unsafe { named(param) }).collect())
    }
}

impl FromIterator<(String, TypedValue)> for Params {
    fn from_iter<T: IntoIterator<Item = (String, TypedValue)>>(named: T) -> Self {
        Params(named.into_iter().collect())
    }
}

/// # Safety
///
/// `param` was filled by libvirt.
unsafe fn named(param: &virt_sys::virTypedParameter) -> Option<(String, TypedValue)> {
    let field = param.field.iter().take_while(|byte| **byte != 0).map(|byte| byte.cast_unsigned()).collect();
    // SAFETY: `type_` says which member of the union libvirt filled; a text is null or ends with NUL.
    let value = unsafe {
        match u32::try_from(param.type_).ok()? {
            virt_sys::VIR_TYPED_PARAM_INT => TypedValue::Int(param.value.i.into()),
            virt_sys::VIR_TYPED_PARAM_UINT => TypedValue::Unsigned(param.value.ui.into()),
            virt_sys::VIR_TYPED_PARAM_LLONG => TypedValue::Int(param.value.l),
            virt_sys::VIR_TYPED_PARAM_ULLONG => TypedValue::Unsigned(param.value.ul),
            virt_sys::VIR_TYPED_PARAM_DOUBLE => TypedValue::Double(param.value.d),
            virt_sys::VIR_TYPED_PARAM_BOOLEAN => TypedValue::Int(param.value.b.into()),
            virt_sys::VIR_TYPED_PARAM_STRING if !param.value.s.is_null() => {
                TypedValue::Text(CStr::from_ptr(param.value.s).to_string_lossy().into_owned())
            }
            _ => return None,
        }
    };
    Some((String::from_utf8(field).ok()?, value))
}

/// A list that libvirt allocates and fills, or that is filled for it; released with its strings.
pub(super) struct Owned {
    params: virt_sys::virTypedParameterPtr,
    count: c_int,
    /// Parameters that fit without another allocation.
    room: c_int,
}

/// A value for libvirt, in the type that the parameter's documentation names.
#[derive(Debug, Clone, Copy)]
pub(super) enum Given<'a> {
    /// A string.
    Text(&'a str),
    /// `int`.
    Int(i32),
    /// `unsigned long long`.
    Unsigned(u64),
}

impl Owned {
    /// Lets `fill` call libvirt with the places for the list and its length; a negative answer is an error.
    pub(super) fn filled(
        fill: impl FnOnce(*mut virt_sys::virTypedParameterPtr, *mut c_int) -> c_int,
    ) -> Result<Self, VirError> {
        let mut owned = Owned::empty();
        match fill(&mut owned.params, &mut owned.count) {
            0.. => Ok(owned),
            _ => Err(last_error()),
        }
    }

    /// A list of texts for libvirt to read.
    pub(super) fn of_texts(texts: &[(&str, &str)]) -> Result<Self, VirError> {
        let mut list = Owned::empty();
        for (name, value) in texts {
            list.add(name, Given::Text(value))?;
        }
        Ok(list)
    }

    /// A list without parameters.
    pub(super) fn empty() -> Self {
        Owned { params: std::ptr::null_mut(), count: 0, room: 0 }
    }

    /// Adds a parameter for libvirt to read. A name may be there more than once.
    pub(super) fn add(&mut self, name: &str, value: Given<'_>) -> Result<(), VirError> {
        let name = c_string(name)?;
        let (params, count, room) = (&raw mut self.params, &raw mut self.count, &raw mut self.room);
        // SAFETY: list, length and room belong together; libvirt copies name and text.
        let added = unsafe {
            match value {
                Given::Text(text) => {
                    let text = c_string(text)?;
                    virt_sys::virTypedParamsAddString(params, count, room, name.as_ptr(), text.as_ptr())
                }
                Given::Int(number) => virt_sys::virTypedParamsAddInt(params, count, room, name.as_ptr(), number),
                Given::Unsigned(number) => {
                    virt_sys::virTypedParamsAddULLong(params, count, room, name.as_ptr(), number)
                }
            }
        };
        if added < 0 { Err(last_error()) } else { Ok(()) }
    }

    /// What is in the list.
    pub(super) fn read(&self) -> Params {
        // SAFETY: the list is libvirt's own and alive until `drop`.
        unsafe { Params::copy(self.params, self.count) }
    }

    /// The list's place and length, for a call that reads it.
    pub(super) fn raw(&self) -> (virt_sys::virTypedParameterPtr, c_int) {
        (self.params, self.count)
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: the list came from libvirt and this is its only release; null is allowed.
        unsafe { virt_sys::virTypedParamsFree(self.params, self.count) }
    }
}

/// A text as C wants it.
pub(super) fn c_string(text: &str) -> Result<CString, VirError> {
    CString::new(text).map_err(|error: NulError| VirError {
        code: code::INVALID_ARG,
        domain: 0,
        message: format!("invalid argument: {error}"),
    })
}

/// Takes over a string that libvirt allocated.
///
/// # Safety
/// `text` is a NUL-terminated string from libvirt that is released here only.
pub(super) unsafe fn take_text(text: *mut c_char) -> String {
    // SAFETY: promised by the caller.
    unsafe {
        let copy = CStr::from_ptr(text).to_string_lossy().into_owned();
        libc::free(text.cast());
        copy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_goes_through_libvirts_own_memory() {
        // SAFETY: may be called at any time, and more than once. A connection does it elsewhere.
        assert_eq!(unsafe { virt_sys::virInitialize() }, 0);
        let list = Owned::of_texts(&[("sev-secret", "abc"), ("sev-secret-header", "def")]).unwrap();
        let params = list.read();
        assert_eq!((params.text("sev-secret"), params.text("sev-secret-header")), (Some("abc"), Some("def")));
        assert_eq!((params.text("other"), params.unsigned("sev-secret")), (None, None));
        assert!(Owned::of_texts(&[("sev-secret", "a\0b")]).is_err_and(|error| error.message.contains("nul byte")));
    }

    #[test]
    fn numbers_are_read_in_the_width_that_is_asked() {
        let named = |(name, value): (&str, TypedValue)| (name.to_owned(), value);
        let params: Params = [
            ("a", TypedValue::Int(-1)),
            ("b", TypedValue::Unsigned(7)),
            ("c", TypedValue::Unsigned(u64::MAX)),
            ("vcpu.0.state", TypedValue::Int(1)),
        ]
        .map(named)
        .into_iter()
        .collect();
        assert_eq!((params.unsigned("a"), params.int("a")), (None, Some(-1)));
        assert_eq!((params.unsigned("b"), params.int("b")), (Some(7), Some(7)));
        assert_eq!((params.unsigned("c"), params.int("c")), (Some(u64::MAX), None));
        assert!(params.has_prefix("vcpu.0.") && !params.has_prefix("vcpu.1."));
    }
}
