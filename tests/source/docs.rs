//! Every file says what it is about, and every public type what it stands for. Fields and variants say something only where
//! their names do not.

use std::path::Path;

use super::layering::sources;

/// The lines above line `at`, nearest first, without attributes.
fn above<'a>(lines: &[&'a str], at: usize) -> impl Iterator<Item = &'a str> {
    let mut inside = false;
    lines[..at].iter().rev().map(|line| line.trim()).filter(move |line| {
        let attribute = inside || line.starts_with("#[") || line.ends_with(")]");
        inside = attribute && !line.starts_with("#[");
        !attribute
    })
}

fn is_type(line: &str) -> bool {
    let line = line.trim_start();
    // A macro's pattern, whose types are documented where it is used.
    ["pub struct ", "pub enum ", "pub trait ", "pub union ", "pub type "].iter().any(|start| line.starts_with(start))
        && !line.contains('$')
}

/// Numbers of the lines that lack a comment.
fn undocumented(text: &str) -> Vec<usize> {
    let lines: Vec<&str> = text.lines().collect();
    let head = (!text.starts_with("//!")).then_some(1);
    let types = (0..lines.len()).filter(|at| is_type(lines[*at]));
    let bare = types.filter(|at| !above(&lines, *at).next().is_some_and(|line| line.starts_with("///")));
    head.into_iter().chain(bare.map(|at| at + 1)).collect()
}

#[test]
fn every_file_and_every_public_type_is_documented() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    let mut wrong = Vec::new();
    for file in &files {
        let text = std::fs::read_to_string(file).unwrap();
        let short = file.strip_prefix(&src).unwrap().display().to_string();
        wrong.extend(undocumented(&text).into_iter().map(|line| format!("src/{short}:{line}")));
    }
    assert!(wrong.is_empty(), "without a comment:\n{}", wrong.join("\n"));
}

#[test]
fn what_lacks_a_comment_is_found() {
    let text =
        "//! A file.\n\n/// A type.\n#[derive(\n    Debug,\n)]\npub struct A;\n\npub enum B {}\n    pub trait C {}\n";
    assert_eq!(undocumented(text), [9, 10]);
    assert_eq!(undocumented("use x;\n"), [1]);
}
