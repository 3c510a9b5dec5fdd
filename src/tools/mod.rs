//! The helper programs that share this binary.
