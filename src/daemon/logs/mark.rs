//! How far a log was forwarded, for the next launcher: a line of text in a small file, written over in place
//! after each read. It goes to the page cache, which outlives the launcher.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use super::follow::Position;
use crate::files::Folder;

/// Three numbers of twenty digits, a blank or newline after each.
const LENGTH: usize = 63;

/// The file.
#[derive(Debug)]
pub struct Mark {
    file: File,
    last: Option<Position>,
}

impl Mark {
    /// The mark `name` in `folder`. One that a previous launcher left is of use only to a launcher that `adopts`.
    pub fn open(folder: &Folder, name: &str, adopts: bool) -> io::Result<Self> {
        let mode = Mode::from_bits_truncate(0o600);
        let file = folder.file(name, OFlag::O_RDWR | OFlag::O_CREAT, mode)?;
        let mut text = [0; LENGTH];
        let last = match adopts {
            true => file.read_exact_at(&mut text, 0).ok().and_then(|()| parse(&text)),
            false => {
                file.set_len(0)?;
                None
            }
        };
        Ok(Mark { file, last })
    }

    /// The position that was set last.
    pub fn last(&self) -> Option<Position> {
        self.last
    }

    /// Sets the position.
    pub fn set(&mut self, position: Position) -> io::Result<()> {
        if self.last == Some(position) {
            return Ok(());
        }
        let Position { device, inode, offset } = position;
        self.file.write_all_at(format!("{device:020} {inode:020} {offset:020}\n").as_bytes(), 0)?;
        self.last = Some(position);
        Ok(())
    }
}

fn parse(text: &[u8]) -> Option<Position> {
    let mut numbers = std::str::from_utf8(text).ok()?.split_ascii_whitespace().map(|number| number.parse::<u64>().ok());
    let mut next = || numbers.next().flatten();
    Some(Position { device: next()?, inode: next()?, offset: next()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mark_is_there_for_the_next_launcher_and_not_for_a_first_one() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::open(place.path()).unwrap();
        let position = Position { device: u64::MAX, inode: 7, offset: 1 << 40 };
        let mut mark = Mark::open(&folder, "mark", false).unwrap();
        assert_eq!(mark.last(), None);
        mark.set(Position { offset: 5, ..position }).unwrap();
        mark.set(position).unwrap();
        assert_eq!(Mark::open(&folder, "mark", true).unwrap().last(), Some(position));
        assert_eq!(Mark::open(&folder, "mark", false).unwrap().last(), None);
        std::fs::write(place.path().join("mark"), "nonsense").unwrap();
        assert_eq!(Mark::open(&folder, "mark", true).unwrap().last(), None);
    }
}
