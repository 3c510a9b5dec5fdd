//! Extents of a map, as they go to who fetches the backup (contract/cmd-server.md 7.3).

use super::nbd::Part;
use crate::proto::nbd::{Extent, MapResponse};

/// Most extents in one message.
const MOST: usize = 512;
/// `NBD_STATE_ZERO` of `base:allocation`: reads as zeroes.
const ZERO: u32 = 2;

/// What the flags of extents mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Those of `base:allocation`.
    Full,
    /// Those of a dirty bitmap, with `ZERO` of `base:allocation`.
    Changed,
}

impl Kind {
    fn description(self, flags: u64) -> &'static str {
        match (self, flags) {
            (Kind::Full, 0) => "data",
            (Kind::Full, 1) => "hole",
            (Kind::Full, 2) => "zero",
            (Kind::Full, 3) => "hole,zero",
            (Kind::Changed, 0) => "clean",
            (Kind::Changed, 1) => "dirty",
            (Kind::Changed, 2) => "zero",
            (Kind::Changed, 3) => "dirty,zero",
            (Kind::Full | Kind::Changed, 4..) => "unknown",
        }
    }
}

/// What both a status of `base:allocation` and one of a dirty bitmap cover. Their bits 0 mean different things (a hole, a
/// change): the hole is left out. The two may end at different places; the rest is to be asked for again.
pub fn merged(allocation: &[Part], dirty: &[Part]) -> Vec<Part> {
    let (mut allocation, mut dirty) = (allocation.iter().copied(), dirty.iter().copied());
    let (mut one, mut other) = (allocation.next(), dirty.next());
    let mut merged = Vec::new();
    while let (Some(allocated), Some(changed)) = (one, other) {
        let length = allocated.length.min(changed.length);
        merged.push(Part { length, flags: allocated.flags & ZERO | changed.flags });
        let rest = |part: Part| (part.length > length).then(|| Part { length: part.length - length, ..part });
        one = rest(allocated).or_else(|| allocation.next());
        other = rest(changed).or_else(|| dirty.next());
    }
    merged
}

/// Makes messages of parts that follow one another; neighbours of equal flags become one extent.
pub struct Messages {
    kind: Kind,
    /// Where the next part begins, in bytes.
    at: u64,
    extents: Vec<Extent>,
}

impl Messages {
    /// None yet; the first part will begin at `offset`.
    pub fn new(kind: Kind, offset: u64) -> Self {
        Messages { kind, at: offset, extents: Vec::new() }
    }

    /// Where the next part begins, in bytes.
    pub fn next_offset(&self) -> u64 {
        self.at
    }

    /// Adds a part. A message is full when the part begins an extent that it has no room for.
    pub fn add(&mut self, part: Part) -> Option<MapResponse> {
        let flags = u64::from(part.flags);
        let offset = self.at;
        self.at = self.at.saturating_add(part.length);
        if let Some(last) = self.extents.last_mut()
            && last.flags == flags
        {
            last.length = last.length.saturating_add(part.length);
            return None;
        }
        let full = match self.extents.len() >= MOST {
            true => self.take(offset),
            false => None,
        };
        let description = self.kind.description(flags).to_owned();
        self.extents.push(Extent { offset, length: part.length, flags, description });
        full
    }

    /// The last message, if anything is left.
    pub fn finish(mut self) -> Option<MapResponse> {
        let at = self.at;
        self.take(at)
    }

    fn take(&mut self, next_offset: u64) -> Option<MapResponse> {
        let extents = std::mem::take(&mut self.extents);
        (!extents.is_empty()).then_some(MapResponse { extents, next_offset })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(parts: &[(u64, u32)]) -> Vec<Part> {
        parts.iter().map(|(length, flags)| Part { length: *length, flags: *flags }).collect()
    }

    fn messages(kind: Kind, offset: u64, all: &[Part]) -> Vec<MapResponse> {
        let mut messages = Messages::new(kind, offset);
        let mut done: Vec<MapResponse> = all.iter().filter_map(|part| messages.add(*part)).collect();
        done.extend(messages.finish());
        done
    }

    #[test]
    fn bitmap_is_merged_with_the_zeroes_and_not_with_the_holes() {
        let allocation = parts(&[(100, 0), (100, 3), (50, 1)]);
        let dirty = parts(&[(150, 1), (200, 0)]);
        // The bitmap's status goes further: what only one covers is left out.
        assert_eq!(merged(&allocation, &dirty), parts(&[(100, 1), (50, 3), (50, 2), (50, 0)]));
        assert_eq!(merged(&allocation, &[]), []);
    }

    #[test]
    fn equal_neighbours_are_one_extent_with_its_name() {
        let all = parts(&[(10, 0), (5, 0), (7, 3), (1, 8)]);
        let found = messages(Kind::Full, 100, &all);
        let [one] = found.as_slice() else { panic!("{found:?}") };
        let extents: Vec<_> =
            one.extents.iter().map(|it| (it.offset, it.length, it.flags, it.description.as_str())).collect();
        assert_eq!(extents, [(100, 15, 0, "data"), (115, 7, 3, "hole,zero"), (122, 1, 8, "unknown")]);
        assert_eq!(one.next_offset, 123);
        let found = messages(Kind::Changed, 0, &parts(&[(1, 0), (1, 1), (1, 2), (1, 3)]));
        let names: Vec<_> = found[0].extents.iter().map(|it| it.description.as_str()).collect();
        assert_eq!(names, ["clean", "dirty", "zero", "dirty,zero"]);
    }

    #[test]
    fn message_holds_so_many_extents() {
        let all: Vec<Part> = (0..1030).map(|at| Part { length: 2, flags: at % 2 }).collect();
        let found = messages(Kind::Full, 0, &all);
        let sizes: Vec<_> = found.iter().map(|it| (it.extents.len(), it.next_offset)).collect();
        assert_eq!(sizes, [(512, 1024), (512, 2048), (6, 2060)]);
        assert_eq!(messages(Kind::Full, 0, &[]), []);
    }
}
