//! libvirt's typed parameters (`virTypedParameter`) as Rust values.

use std::collections::BTreeMap;
use std::ffi::{CStr, c_int};

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
        Params(params.iter().filter_map(|param| unsafe { named(param) }).collect())
    }
}

impl FromIterator<(String, TypedValue)> for Params {
    fn from_iter<T: IntoIterator<Item = (String, TypedValue)>>(named: T) -> Self {
        Params(named.into_iter().collect())
    }
}

/// SAFETY: `param` was filled by libvirt, so that `type_` says which member of the union is there.
unsafe fn named(param: &virt_sys::virTypedParameter) -> Option<(String, TypedValue)> {
    let field = param.field.iter().take_while(|byte| **byte != 0).map(|byte| byte.cast_unsigned()).collect();
    let value = match u32::try_from(param.type_).ok()? {
        virt_sys::VIR_TYPED_PARAM_INT => TypedValue::Int(unsafe { param.value.i }.into()),
        virt_sys::VIR_TYPED_PARAM_UINT => TypedValue::Unsigned(unsafe { param.value.ui }.into()),
        virt_sys::VIR_TYPED_PARAM_LLONG => TypedValue::Int(unsafe { param.value.l }),
        virt_sys::VIR_TYPED_PARAM_ULLONG => TypedValue::Unsigned(unsafe { param.value.ul }),
        virt_sys::VIR_TYPED_PARAM_DOUBLE => TypedValue::Double(unsafe { param.value.d }),
        virt_sys::VIR_TYPED_PARAM_BOOLEAN => TypedValue::Int(unsafe { param.value.b }.into()),
        virt_sys::VIR_TYPED_PARAM_STRING => {
            let text = unsafe { param.value.s };
            if text.is_null() {
                return None;
            }
            TypedValue::Text(unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
        }
        _ => return None,
    };
    Some((String::from_utf8(field).ok()?, value))
}
