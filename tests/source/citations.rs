//! Every page and section of `docs/contract` that a comment cites exists.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;

/// Sections of one page: numbers of its headings, and `SECTION.N` for entry N of a numbered list or table in a section.
type Sections = BTreeSet<String>;

/// Where citations are looked for, besides the Markdown files and Containerfiles of the root.
const CITING: &[&str] = &["src", "tests", "benches", "images", "docs"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn pages() -> BTreeMap<String, Sections> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(root().join("docs/contract")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if path.extension().is_some_and(|extension| extension == "md") && name != "README" {
            found.insert(name, sections(&fs::read_to_string(&path).unwrap()));
        }
    }
    found
}

fn sections(text: &str) -> Sections {
    let heading = Regex::new(r"^#+ (\d+(?:\.\d+)*)\b").unwrap();
    let entry = Regex::new(r"^(?:(\d+)\. |\| (\d+) \|)").unwrap();
    let mut found = Sections::new();
    let mut current = String::new();
    for line in text.lines() {
        if let Some(number) = heading.captures(line) {
            current = number[1].to_owned();
            found.insert(current.clone());
        } else if let Some(number) = entry.captures(line) {
            let number = number.get(1).or(number.get(2)).map_or("", |number| number.as_str());
            found.insert(format!("{current}.{number}"));
        }
    }
    found
}

fn citing_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            citing_files(&path, found);
        } else {
            found.push(path);
        }
    }
}

/// The comments of a source file, each run of comment lines as one line of text.
fn comments(source: &str) -> Vec<String> {
    let mut found = vec![String::new()];
    for line in source.lines() {
        let line = line.trim_start();
        match line.strip_prefix("//") {
            Some(rest) => {
                let text = found.last_mut().unwrap();
                text.push_str(rest.trim_start_matches(['/', '!']).trim());
                text.push(' ');
            }
            None => found.push(line.split_once("// ").map_or(String::new(), |(_, comment)| comment.to_owned())),
        }
    }
    found
}

/// One citation: the page, `None` for a section in parentheses alone, and the sections as written.
struct Citation {
    page: Option<String>,
    sections: Vec<String>,
}

struct Grammar {
    citation: Regex,
    section: Regex,
}

impl Grammar {
    fn new() -> Grammar {
        let list = r"\d+(?:\.\d+)*(?:(?:, | and | to )\d+(?:\.\d+)*\b)*";
        Grammar {
            // A page, perhaps with sections; or sections in parentheses, of which the first has a dot.
            citation: Regex::new(&format!(
                r"(?:contract/([a-z-]+)(?:\.md)?|\b([a-z-]+)\.md)`?(?: ({list}))?|\((\d+\.\d+(?:\.\d+)*(?:, {list})?)(?:\)|, step)"
            ))
            .unwrap(),
            section: Regex::new(r"\d+(?:\.\d+)*").unwrap(),
        }
    }

    fn citations(&self, comment: &str) -> Vec<Citation> {
        let sections = |text: &str| self.section.find_iter(text).map(|found| found.as_str().to_owned()).collect();
        let read = |captures: regex::Captures<'_>| match captures.get(4) {
            Some(bare) => Citation { page: None, sections: sections(bare.as_str()) },
            None => Citation {
                page: captures.get(1).or(captures.get(2)).map(|page| page.as_str().to_owned()),
                sections: captures.get(3).map_or(Vec::new(), |list| sections(list.as_str())),
            },
        };
        self.citation.captures_iter(comment).map(read).collect()
    }
}

/// What is wrong with the citations of one file, and how many it has.
fn check(
    grammar: &Grammar,
    path: &Path,
    text: &str,
    around: &str,
    pages: &BTreeMap<String, Sections>,
) -> (Vec<String>, usize) {
    let is_rust = path.extension().is_some_and(|extension| extension == "rs");
    let read = |text: &str| if is_rust { comments(text) } else { text.lines().map(str::to_owned).collect() };
    let all = |text: &str| read(text).iter().flat_map(|comment| grammar.citations(comment)).collect::<Vec<_>>();
    let citations = all(text);
    let first_page = |citations: &[Citation]| {
        citations.iter().find_map(|citation| citation.page.clone().filter(|page| pages.contains_key(page)))
    };
    let default = first_page(&citations).or_else(|| first_page(&all(around)));

    let mut wrong = Vec::new();
    let mut count = 0;
    for Citation { page, sections } in citations {
        let Some(page) = page.or_else(|| if is_rust { default.clone() } else { None }) else {
            if is_rust {
                wrong.push(format!("{}: ({}) cites a section of no page", path.display(), sections.join(", ")));
            }
            continue;
        };
        let Some(known) = pages.get(&page) else {
            if text.contains(&format!("contract/{page}")) {
                wrong.push(format!("{}: docs/contract/{page}.md does not exist", path.display()));
            }
            continue;
        };
        count += 1;
        for section in sections.iter().filter(|section| !known.contains(*section)) {
            wrong.push(format!("{}: docs/contract/{page}.md has no section {section}", path.display()));
        }
    }
    (wrong, count)
}

#[test]
fn citations_name_pages_and_sections_that_exist() {
    let pages = pages();
    assert!(pages.len() >= 7, "docs/contract holds only {:?}", pages.keys());
    let mut files = Vec::new();
    for folder in CITING {
        citing_files(&root().join(folder), &mut files);
    }
    for entry in fs::read_dir(root()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if name.ends_with(".md") || name.starts_with("Containerfile") {
            files.push(path);
        }
    }
    let grammar = Grammar::new();
    let (mut wrong, mut count) = (Vec::new(), 0);
    for path in files {
        // Images and archives among the test data cite nothing; this file holds examples of wrong citations.
        let Ok(text) = fs::read_to_string(&path) else { continue };
        if path.ends_with("tests/source/citations.rs") {
            continue;
        }
        let around = ["mod.rs", "../mod.rs"].iter().map(|name| path.parent().unwrap().join(name));
        let around: String = around.filter_map(|path| fs::read_to_string(path).ok()).collect();
        let short = path.strip_prefix(root()).unwrap();
        let (found, citations) = check(&grammar, short, &text, &around, &pages);
        wrong.extend(found);
        count += citations;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count > 250, "only {count} citations were found");
}

#[test]
fn check_reports_what_dangles() {
    let page =
        sections("## 3. Start\n### 3.1 Steps\n1. first\n2. second\n## 4 Flags\n| # | flag |\n|---|---|\n| 1 | -v |\n");
    let pages = BTreeMap::from([("lifecycle".to_owned(), page)]);
    let grammar = Grammar::new();
    let wrong = |text: &str| check(&grammar, Path::new("a.rs"), text, "", &pages).0;

    assert_eq!(wrong("/// As contract/lifecycle.md 3.1 says, and 4.1; steps (3.1.2).\n"), Vec::<String>::new());
    assert_eq!(wrong("// contract/lifecycle.md 3 to 4\n"), Vec::<String>::new());
    assert_eq!(
        wrong("// contract/lifecycle.md 3.1,\n// 9.9\n"),
        ["a.rs: docs/contract/lifecycle.md has no section 9.9"]
    );
    assert_eq!(wrong("let x = 1; // lifecycle.md 5\n"), ["a.rs: docs/contract/lifecycle.md has no section 5"]);
    assert_eq!(wrong("// contract/notify.md 1\n"), ["a.rs: docs/contract/notify.md does not exist"]);
    assert_eq!(wrong("// What must hold (8.3).\n"), ["a.rs: (8.3) cites a section of no page"]);
    assert_eq!(wrong("let ratio = f(1.0);\n"), Vec::<String>::new());
}
