//! Arrows between modules point down: a module of `src/` may use only modules of layers below its own (`src/lib.rs`). Between
//! files there is no circle, and libvirt's numbers stay in `src/libvirt`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};

/// From top to bottom. Modules of one layer do not use each other, but for [`WITHIN`].
const LAYERS: &[&[&str]] = &[
    &["cli"],
    &["launcher", "monitor", "tools"],
    &["cmd", "notify", "daemon", "storage", "guest_agent", "dhcp", "hooks", "export"],
    &["libvirt", "convert", "hypervisor", "process"],
    &["domain", "vmi"],
    &["files", "logging", "proto", "yaml"],
];

/// Arrows inside a layer that the design knows: from, to, why.
const WITHIN: &[(&str, &str, &str)] = &[
    ("hypervisor", "libvirt", "what a driver lacks is added around libvirt's calls"),
    ("hypervisor", "process", "a hypervisor's process is ended where its driver leaves it behind"),
];

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// `src/a/b.rs` and `src/a.rs` belong to module `a`.
fn module_of(path: &Path, src: &Path) -> String {
    let first = path.strip_prefix(src).unwrap().components().next().unwrap();
    first.as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned()
}

pub fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Drops comments; a `//` inside a string ends the line early, which no reference follows.
fn code(source: &str) -> String {
    source.lines().map(|line| line.split("//").next().unwrap_or("")).collect::<Vec<_>>().join("\n")
}

/// The modules named by `crate::x`, `use crate::{x, y::z}` and `virt_launcher::x`.
fn references(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for marker in ["crate::", "virt_launcher::"] {
        for (at, _) in code.match_indices(marker) {
            let rest = &code[at + marker.len()..];
            if let Some(group) = rest.strip_prefix('{') {
                found.extend(group_heads(group));
            } else {
                found.insert(identifier(rest));
            }
        }
    }
    found
}

fn identifier(text: &str) -> String {
    text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// First names of `x, y::{a, b}, z}`.
fn group_heads(group: &str) -> Vec<String> {
    let (mut depth, mut start, mut heads) = (0, 0, Vec::new());
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => {
                heads.push(identifier(&group[start..at]));
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                heads.push(identifier(&group[start..at]));
                start = at + 1;
            }
            _ => {}
        }
    }
    heads
}

fn allowed(from: &str, to: &str) -> bool {
    match (layer(from), layer(to)) {
        (Some(from_layer), Some(to_layer)) => {
            from == to || to_layer > from_layer || WITHIN.iter().any(|(a, b, _)| (*a, *b) == (from, to))
        }
        // A name that is no module: an item or macro of the crate's root.
        _ => true,
    }
}

#[test]
fn arrows_point_down() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    let mut wrong = Vec::new();
    for file in &files {
        let from = module_of(file, &src);
        for to in references(&code(&std::fs::read_to_string(file).unwrap())) {
            if !allowed(&from, &to) {
                wrong.push(format!("{}: {from} uses {to}", file.strip_prefix(&src).unwrap().display()));
            }
        }
    }
    assert!(wrong.is_empty(), "arrows that do not point down (src/lib.rs lists the layers):\n{}", wrong.join("\n"));
}

#[test]
fn every_module_has_a_layer() {
    let root = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    let modules: Vec<&str> = root.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    let without: Vec<&&str> = modules.iter().filter(|module| layer(module).is_none()).collect();
    assert!(without.is_empty(), "give these modules of src/lib.rs a layer: {without:?}");
    assert_eq!(modules.len(), LAYERS.iter().map(|layer| layer.len()).sum::<usize>());
}

#[test]
fn test_sees_an_arrow_that_points_up() {
    let code = code("use crate::{domain::X, cmd::{serve, Driver}}; // crate::cli\nfn f() { crate::launcher::run() }");
    assert_eq!(Vec::from_iter(references(&code)), ["cmd", "domain", "launcher"]);
    assert!(!allowed("domain", "cmd"));
    assert!(!allowed("domain", "vmi"));
    assert!(allowed("cmd", "domain"));
    assert!(allowed("domain", "logging"));
}

/// Every RPC of the command service can be called by a person.
#[test]
fn ctl_calls_every_rpc() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let proto = std::fs::read_to_string(root.join("src/proto/cmd_v1.proto")).unwrap();
    let mut files = Vec::new();
    sources(&root.join("src/cli/ctl"), &mut files);
    let ctl: String = files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
    let rpcs = proto.lines().filter_map(|line| line.trim().strip_prefix("rpc ")?.split('(').next());
    let mut seen = 0;
    for rpc in rpcs {
        seen += 1;
        // Without underscores and case there is no question of how the generator splits `SEVInfo` or `CPUs`.
        let called = ctl.split('.').any(|text| {
            let name: String = text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            text[name.len()..].starts_with('(') && name.replace('_', "").eq_ignore_ascii_case(rpc.trim())
        });
        assert!(called, "no subcommand calls {rpc}");
    }
    assert!(seen > 30, "{seen} RPCs in the service's definition");
}

#[test]
fn files_import_each_other_in_no_circle() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    let texts = files.iter().map(|file| {
        let path = file.strip_prefix(&src).unwrap().to_str().unwrap().to_owned();
        (path, std::fs::read_to_string(file).unwrap())
    });
    let house = House::new(texts);
    assert!(house.files.len() > 300 && house.arrows().values().map(BTreeMap::len).sum::<usize>() > 1000);
    let circle = house.circle();
    assert!(circle.is_none(), "files that import each other in a circle:\n{}", circle.unwrap_or_default());
}

#[test]
fn libvirts_numbers_stay_in_its_module() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    files.retain(|file| module_of(file, &src) != "libvirt");
    let mut wrong = Vec::new();
    for file in &files {
        let text = std::fs::read_to_string(file).unwrap();
        for (number, line) in text.lines().enumerate().filter(|(_, line)| is_raw(line)) {
            wrong.push(format!("src/{}:{}: {}", file.strip_prefix(&src).unwrap().display(), number + 1, line.trim()));
        }
    }
    assert!(wrong.is_empty(), "raw libvirt outside src/libvirt, which has a name for it:\n{}", wrong.join("\n"));
}

/// Whether a line has a constant of libvirt's C headers, in a comment beside its number too, or a crate that is made of them.
fn is_raw(line: &str) -> bool {
    let begins = |word: &str| {
        line.match_indices(word)
            .any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | ':')))
    };
    begins("VIR_") || begins("virt_sys::") || begins("virt::")
}

#[test]
fn test_sees_a_raw_number_of_libvirt() {
    assert!(is_raw("/// `VIR_FROM_RPC`: the client speaks."));
    assert!(is_raw("    unsafe { virt_sys::virDomainGetState(domain) }"));
    assert!(is_raw("use virt::domain::Domain;"));
    assert!(!is_raw("use crate::libvirt::Connection; // MY_VIR_X"));
}

#[test]
fn test_sees_a_circle() {
    let house =
        |files: &[(&str, &str)]| House::new(files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())));
    // Through a group, a re-export and a path in the code.
    let circle = house(&[
        ("lib.rs", "pub mod a; pub mod b;"),
        ("a/mod.rs", "mod one; pub use one::One; // use crate::b::two"),
        ("a/one.rs", "use std::fmt; use crate::b::{self, two::{Two, Other as O}}; pub struct One;"),
        ("b/mod.rs", "pub mod two; mod three;"),
        ("b/two.rs", "pub struct Two; pub struct Other; fn f() { super::three::g::<u8>() }"),
        ("b/three.rs", "pub fn g<T>() -> crate::a::One { \"use crate::c\"; crate::a::One }"),
    ]);
    let circle = circle.circle().unwrap();
    assert!(circle.contains("src/a/one.rs -> src/b/two.rs (Other, Two)"), "{circle}");
    assert!(circle.contains("src/b/two.rs -> src/b/three.rs (g)"), "{circle}");
    assert!(circle.contains("src/b/three.rs -> src/a/one.rs (One)"), "{circle}");
    // A file may use its parent, and a test whatever it needs.
    let none = house(&[
        ("lib.rs", "pub mod a; pub mod b;"),
        ("a/mod.rs", "pub mod one; pub struct A(one::One);"),
        ("a/one.rs", "use super::A; use crate::b::B; pub struct One; #[cfg(test)] mod tests { use crate::b::B; }"),
        ("b.rs", "pub struct B; #[cfg(test)] mod tests { use crate::a::one::One; fn f() { \"}\"; '}' } }"),
    ]);
    assert_eq!(none.circle(), None);
}

/// A module's path, such as `["launcher", "vm"]`; that of `lib.rs` is empty.
type Module = Vec<String>;

/// The files of `src/`, each a module, with what they name of each other.
struct House {
    files: BTreeMap<Module, Source>,
}

/// What a file has and names. Tests count for nothing.
#[derive(Default)]
struct Source {
    path: String,
    /// Its own items.
    items: BTreeSet<String>,
    /// What `use` brings in: the name here, and the path.
    uses: Vec<(String, Vec<String>)>,
    /// Paths in its code.
    paths: Vec<Vec<String>>,
    /// Modules of it that are compiled for tests only.
    test_modules: Vec<String>,
}

impl House {
    fn new(texts: impl Iterator<Item = (String, String)>) -> Self {
        let mut files = BTreeMap::new();
        for (path, text) in texts {
            let module = module_path(&path);
            // Programs of their own; nothing can import them.
            if path != "main.rs" && !path.starts_with("bin/") {
                files.insert(module, Source::read(format!("src/{path}"), &text));
            }
        }
        let of_tests: Vec<Module> = files
            .iter()
            .flat_map(|(module, source)| source.test_modules.iter().map(move |name| child(module, name)))
            .collect();
        files.retain(|module, _| !of_tests.iter().any(|tests| module.starts_with(tests)));
        House { files }
    }

    /// The file that a path means in `module`: one that has the item, also where another one re-exports it. A module that is
    /// named to go through it means nothing by itself. An item that is not seen there, such as one that a macro makes, counts as
    /// one of the file unless it has to be `sure`.
    fn target(&self, module: &Module, path: &[String], sure: bool, depth: usize) -> Option<Module> {
        if depth > 8 {
            return None;
        }
        let (mut at, mut rest) = match path.first()?.as_str() {
            "crate" => (Vec::new(), &path[1..]),
            "self" => (module.clone(), &path[1..]),
            "super" => {
                let up = path.iter().take_while(|part| *part == "super").count();
                (module[..module.len().checked_sub(up)?].to_vec(), &path[up..])
            }
            name if self.files.contains_key(&child(module, name)) => (module.clone(), path),
            name => {
                let (_, meant) = self.files.get(module)?.uses.iter().find(|(own, _)| own == name)?;
                if meant.first() == path.first() && meant.len() == 1 {
                    return None;
                }
                return self.target(module, &[meant, &path[1..]].concat(), sure, depth + 1);
            }
        };
        while let [name, further @ ..] = rest {
            let source = self.files.get(&at)?;
            if self.files.contains_key(&child(&at, name)) {
                (at, rest) = (child(&at, name), further);
                continue;
            }
            if source.items.contains(name) {
                return Some(at);
            }
            let again = source.uses.iter().find(|(own, _)| own == name);
            if let Some((_, meant)) = again {
                return self.target(&at, &[meant, further].concat(), sure, depth + 1);
            }
            let globs = source.uses.iter().filter(|(own, _)| own == "*");
            for (_, meant) in globs {
                let found = self.target(&at, &[meant.as_slice(), rest].concat(), true, depth + 1);
                if found.is_some() {
                    return found;
                }
            }
            return (!sure).then_some(at);
        }
        None
    }

    /// Which file names what of which other one. A file that uses its parent is left out: a room is one with what it holds.
    fn arrows(&self) -> BTreeMap<&Module, BTreeMap<Module, BTreeSet<&str>>> {
        let mut arrows: BTreeMap<&Module, BTreeMap<Module, BTreeSet<&str>>> = BTreeMap::new();
        for (module, source) in &self.files {
            let imported = source.uses.iter().map(|(_, path)| path).filter(|path| path.len() > 1);
            for path in imported.chain(&source.paths) {
                if let Some(target) = self.target(module, path, false, 0)
                    && target != *module
                    && module.split_last().is_none_or(|(_, parent)| target != parent)
                {
                    let name = path.last().map(String::as_str).unwrap_or_default();
                    arrows.entry(module).or_default().entry(target).or_default().insert(name);
                }
            }
        }
        arrows
    }

    /// The shortest circle of the first file that is on one, an arrow a line.
    fn circle(&self) -> Option<String> {
        let arrows = self.arrows();
        let targets = |module: &Module| arrows.get(module).into_iter().flatten().map(|(target, _)| target);
        let back = arrows.keys().find_map(|start| {
            let mut from: BTreeMap<&Module, &Module> = BTreeMap::new();
            let mut next = VecDeque::from([*start]);
            while let Some(module) = next.pop_front() {
                for target in targets(module) {
                    if target == *start {
                        let mut way = vec![*start, module];
                        while let Some(before) = from.get(way[way.len() - 1]).filter(|_| way[way.len() - 1] != *start) {
                            way.push(before);
                        }
                        return Some(way);
                    }
                    if !from.contains_key(target) {
                        from.insert(target, module);
                        next.push_back(target);
                    }
                }
            }
            None
        })?;
        let mut lines = Vec::new();
        for step in back.iter().rev().collect::<Vec<_>>().windows(2) {
            let names: Vec<&str> = arrows[*step[0]][*step[1]].iter().copied().collect();
            let path = |module: &Module| &self.files[module].path;
            lines.push(format!("{} -> {} ({})", path(step[0]), path(step[1]), names.join(", ")));
        }
        Some(lines.join("\n"))
    }
}

fn child(module: &[String], name: &str) -> Module {
    [module, &[name.to_owned()]].concat()
}

fn module_path(path: &str) -> Module {
    let mut parts: Module = path.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if parts.last().is_some_and(|last| matches!(last.as_str(), "mod" | "lib")) {
        parts.pop();
    }
    parts
}

impl Source {
    fn read(path: String, text: &str) -> Self {
        let mut source = Source { path, ..Source::default() };
        let words = words(text);
        let is = |at: usize, expected: &[&str]| {
            expected.iter().zip(&words[at.min(words.len())..]).filter(|(a, b)| a == b).count() == expected.len()
        };
        let mut at = 0;
        while at < words.len() {
            if is(at, &["#", "[", "cfg", "(", "test", ")", "]"]) {
                let end = item_end(&words, at + 7);
                let declared = words[at..end].windows(3).find(|w| w[0] == "mod" && w[2] == ";");
                source.test_modules.extend(declared.map(|w| w[1].clone()));
                at = end;
                continue;
            }
            let word = words[at].as_str();
            match word {
                "use" => {
                    let end = (at..words.len()).find(|at| words[*at] == ";").unwrap_or(words.len());
                    imports(&words[at + 1..end], &[], &mut source.uses);
                    at = end;
                    continue;
                }
                "fn" | "struct" | "enum" | "trait" | "type" | "const" | "static" | "union" | "mod" => {
                    source.items.extend(words.get(at + 1).filter(|name| is_name(name)).cloned());
                }
                "macro_rules" => source.items.extend(words.get(at + 2).cloned()),
                _ => {}
            }
            // A path begins where no path goes on; a method's name is none.
            let begins = is_name(word) && !(at > 0 && matches!(words[at - 1].as_str(), "::" | "."));
            if begins && is(at + 1, &["::"]) {
                let mut path = vec![word.to_owned()];
                while is(at + 1, &["::"]) && words.get(at + 2).is_some_and(|name| is_name(name)) {
                    path.push(words[at + 2].clone());
                    at += 2;
                }
                source.paths.push(path);
            }
            at += 1;
        }
        source
    }
}

fn is_name(word: &str) -> bool {
    word.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Where an item ends that begins at `at`: behind its braces, or its semicolon.
fn item_end(words: &[String], at: usize) -> usize {
    let (mut depth, mut round) = (0_usize, 0_usize);
    for (at, word) in words.iter().enumerate().skip(at) {
        match word.as_str() {
            "{" => depth += 1,
            "}" if depth <= 1 => return at + 1,
            "}" => depth -= 1,
            "(" | "[" => round += 1,
            ")" | "]" => round = round.saturating_sub(1),
            ";" if depth == 0 && round == 0 => return at + 1,
            _ => {}
        }
    }
    words.len()
}

/// What `a::{b, c::D as E}` brings in.
fn imports(words: &[String], before: &[String], found: &mut Vec<(String, Vec<String>)>) {
    let (mut path, mut at) = (before.to_vec(), 0);
    while let Some(word) = words.get(at) {
        match word.as_str() {
            "::" => {}
            "{" => {
                let (mut depth, mut start) = (0_usize, at + 1);
                for (end, word) in words.iter().enumerate().skip(at + 1) {
                    match word.as_str() {
                        "{" => depth += 1,
                        "}" if depth > 0 => depth -= 1,
                        "}" | "," if depth == 0 => {
                            imports(&words[start..end], &path, found);
                            start = end + 1;
                        }
                        _ => {}
                    }
                }
                return;
            }
            "as" => {
                found.extend(words.get(at + 1).map(|name| (name.clone(), path)));
                return;
            }
            "*" => {
                found.push(("*".to_owned(), path));
                return;
            }
            "self" if !path.is_empty() => {}
            name => path.push(name.to_owned()),
        }
        at += 1;
    }
    if path.len() > before.len() || words.iter().any(|word| word == "self") {
        found.extend(path.last().cloned().map(|name| (name, path)));
    }
}

/// The words and signs of a source, without comments and texts.
fn words(source: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let taken = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |end| end + 2),
            '"' => text_end(rest),
            'r' | 'b' | 'c' if raw_text_end(rest).is_some() => raw_text_end(rest).unwrap_or(1),
            'b' | 'c' if rest[1..].starts_with('"') => 1 + text_end(&rest[1..]),
            '\'' => character_end(rest),
            _ if first.is_alphanumeric() || first == '_' => {
                let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
                words.push(rest[..end].to_owned());
                end
            }
            ':' if rest.starts_with("::") => {
                words.push("::".to_owned());
                2
            }
            _ => {
                if !first.is_whitespace() {
                    words.push(first.to_string());
                }
                first.len_utf8()
            }
        };
        rest = &rest[taken..];
    }
    words
}

/// The length of a text that begins with its quotation mark.
fn text_end(rest: &str) -> usize {
    let mut escaped = false;
    for (at, character) in rest.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// The length of `r#"…"#`, also with `b` or `c` before it, if that is what `rest` begins with.
fn raw_text_end(rest: &str) -> Option<usize> {
    let mark = rest.strip_prefix('b').or_else(|| rest.strip_prefix('c')).unwrap_or(rest).strip_prefix('r')?;
    let hashes = mark.len() - mark.trim_start_matches('#').len();
    let text = mark[hashes..].strip_prefix('"')?;
    let end = text.find(&format!("\"{}", "#".repeat(hashes))).map_or(text.len(), |end| end + 1 + hashes);
    Some(rest.len() - text.len() + end)
}

/// The length of a character such as `'}'`, or of a lifetime's mark.
fn character_end(rest: &str) -> usize {
    let mut characters = rest.char_indices().skip(1);
    match (characters.next(), characters.next()) {
        (Some((_, '\\')), _) => {
            rest[2..].char_indices().skip(1).find(|(_, c)| *c == '\'').map_or(rest.len(), |(at, _)| at + 3)
        }
        (Some(_), Some((at, '\''))) => at + 1,
        _ => 1,
    }
}
