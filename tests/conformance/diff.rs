//! A readable difference of two XML texts, line by line.

use std::fmt::Write;

/// Lines shown around a difference.
const CONTEXT: usize = 2;
/// Lines of differences shown at most.
const LIMIT: usize = 60;

#[derive(Clone, Copy, PartialEq)]
enum Mark {
    Same,
    Expected,
    Ours,
}

/// `-` is what the original writes and we do not, `+` what we write.
pub fn lines(expected: &str, ours: &str) -> String {
    let (expected, ours): (Vec<&str>, Vec<&str>) = (expected.lines().collect(), ours.lines().collect());
    let marked = align(&expected, &ours);
    let near = |at: usize| {
        let around = at.saturating_sub(CONTEXT)..(at + CONTEXT + 1).min(marked.len());
        marked[around].iter().any(|(mark, _)| *mark != Mark::Same)
    };
    let mut text = String::new();
    let (mut shown, mut gap) = (0, true);
    for (at, (mark, line)) in marked.iter().enumerate() {
        if !near(at) {
            gap = true;
            continue;
        }
        if gap {
            let _ = writeln!(text, "  @ {}", parents(&marked[..at]));
            gap = false;
        }
        let sign = match mark {
            Mark::Same => ' ',
            Mark::Expected => '-',
            Mark::Ours => '+',
        };
        let _ = writeln!(text, "{sign} {}", line.replace('\t', "  "));
        shown += 1;
        if shown == LIMIT {
            text.push_str("  … and more\n");
            break;
        }
    }
    text
}

/// The elements that are open after these lines.
fn parents(lines: &[(Mark, &str)]) -> String {
    let mut open: Vec<&str> = Vec::new();
    for (_, line) in lines.iter().filter(|(mark, _)| *mark != Mark::Ours) {
        let line = line.trim_start();
        if line.starts_with("</") {
            open.pop();
        } else if !line.contains("</") {
            open.push(line.trim_start_matches('<').split([' ', '>']).next().unwrap_or(""));
        }
    }
    open.join("/")
}

/// A longest common subsequence, by dynamic programming over the part between common head and tail.
fn align<'a>(expected: &[&'a str], ours: &[&'a str]) -> Vec<(Mark, &'a str)> {
    let head = expected.iter().zip(ours).take_while(|(a, b)| a == b).count();
    let (a, b) = (&expected[head..], &ours[head..]);
    let tail = a.iter().rev().zip(b.iter().rev()).take_while(|(a, b)| a == b).count();
    let (a, b) = (&a[..a.len() - tail], &b[..b.len() - tail]);
    // common[i][j]: length for a[i..], b[j..]
    let mut common = vec![vec![0_u32; b.len() + 1]; a.len() + 1];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            common[i][j] = if a[i] == b[j] { common[i + 1][j + 1] + 1 } else { common[i + 1][j].max(common[i][j + 1]) };
        }
    }
    let mut marked: Vec<(Mark, &str)> = expected[..head].iter().map(|line| (Mark::Same, *line)).collect();
    let (mut i, mut j) = (0, 0);
    while i < a.len() || j < b.len() {
        if i < a.len() && j < b.len() && a[i] == b[j] {
            marked.push((Mark::Same, a[i]));
            (i, j) = (i + 1, j + 1);
        } else if j == b.len() || (i < a.len() && common[i + 1][j] >= common[i][j + 1]) {
            marked.push((Mark::Expected, a[i]));
            i += 1;
        } else {
            marked.push((Mark::Ours, b[j]));
            j += 1;
        }
    }
    marked.extend(expected[expected.len() - tail..].iter().map(|line| (Mark::Same, *line)));
    marked
}
