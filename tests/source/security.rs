//! Every test that `SECURITY.md` names is there.

use std::fs;
use std::path::Path;

/// The file of a module path such as `storage::tests`, whose last part is the module of the tests.
fn source(module: &str) -> String {
    let path = module.strip_suffix("::tests").unwrap_or(module).replace("::", "/");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = [format!("{path}.rs"), format!("{path}/mod.rs"), format!("{path}/tests.rs")];
    let found: String = files.iter().filter_map(|file| fs::read_to_string(root.join(file)).ok()).collect();
    assert!(!found.is_empty(), "SECURITY.md names {module}, which is nowhere in src");
    found
}

fn has_test(source: &str, name: &str) -> bool {
    let function = format!("fn {name}()");
    source.match_indices(&function).any(|(at, _)| {
        let before: Vec<&str> = source[..at].lines().rev().take(4).collect();
        before.iter().any(|line| line.trim().starts_with("#[test]") || line.trim().starts_with("#[tokio::test"))
    })
}

/// What stands between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn every_test_that_the_tables_name_is_there() {
    assert!(checked("| boundary |") > 20);
    assert!(checked("| CVE |") > 7);
}

/// Checks the table that begins so; the number of tests that it names.
fn checked(table: &str) -> usize {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("SECURITY.md")).unwrap();
    let rows = text.lines().skip_while(|line| !line.starts_with(table)).skip(2);
    let mut names = 0;
    for row in rows.take_while(|line| line.starts_with('|')) {
        let tests = row.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        let (mut module, mut file) = (String::new(), String::new());
        for name in quoted(tests) {
            if name.starts_with("tests/") {
                file = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap();
                continue;
            }
            names += 1;
            let found = match name.rsplit_once("::") {
                Some((of, name)) => {
                    if of != "…" {
                        module = of.to_owned();
                    }
                    has_test(&source(&module), name)
                }
                None => has_test(&file, name),
            };
            assert!(found, "SECURITY.md names {name}, which is not there: {row}");
        }
        assert!(quoted(tests).next().is_some(), "no test guards this boundary: {row}");
    }
    names
}
