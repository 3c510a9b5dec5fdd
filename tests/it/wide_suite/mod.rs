//! What the original was recorded to do, in `../shared/conformance`, which no clone holds: tests whose names have `wide_suite` in
//! them are ignored unless they are asked for, and fail then where the recordings are not there.

mod documents;
mod recordings;
mod statistics;
