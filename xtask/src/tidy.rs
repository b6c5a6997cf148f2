//! Keeps files and functions short; files of tests don't count.

use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::Command;

/// Most lines of code in a file; comments, blank lines and the unit tests at its end don't count.
const FILE_LINES: usize = 500;
/// Most lines of code in a function.
const FUNCTION_LINES: usize = 70;

/// Fails when a Rust file of the repository exceeds a limit.
pub fn check(root: &Path) -> Result<()> {
    let output = Command::new("git")
        .current_dir(root)
        .args(["ls-files", "*.rs"])
        .output()
        .context("git ls-files")?;
    let mut complaints = Vec::new();
    let mut files = 0;
    for name in String::from_utf8_lossy(&output.stdout).lines() {
        let path = root.join(name);
        // Tests may be as long as what they try.
        if !path.exists() || is_test(name) {
            continue;
        }
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {name}"))?;
        files += 1;
        complaints.extend(complain(name, &text));
    }
    if files == 0 {
        bail!("tidy: git lists no Rust file, so nothing was checked");
    }
    if !complaints.is_empty() {
        bail!("tidy: {}", complaints.join("\n      "));
    }
    eprintln!(
        "--- tidy: {files} files within {FILE_LINES} lines, functions within {FUNCTION_LINES}"
    );
    Ok(())
}

/// Whether a file holds nothing but tests.
fn is_test(name: &str) -> bool {
    name.starts_with("tests/") || name.contains("/tests/") || name.ends_with("/tests.rs")
}

/// What is too long in one file.
fn complain(name: &str, text: &str) -> Vec<String> {
    let tests = ["mod tests", "pub(crate) mod tests"]
        .iter()
        .find_map(|start| text.find(&format!("\n#[cfg(test)]\n{start} {{")));
    let body = &text[..tests.unwrap_or(text.len())];
    let mut complaints = Vec::new();
    let lines: Vec<&str> = body.lines().collect();
    let total = lines.iter().filter(|line| is_code(line)).count();
    if total > FILE_LINES {
        complaints.push(format!(
            "{name}: {total} lines of code, at most {FILE_LINES}"
        ));
    }
    let mut start = None;
    for (number, line) in lines.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        if start.is_none() && is_function(line) && !line.trim_end().ends_with([';', '}']) {
            start = Some((number, indent));
        }
        if let Some((first, depth)) = start
            && indent == depth
            && line.trim_end() == format!("{}}}", " ".repeat(depth))
        {
            let length = lines[first..=number]
                .iter()
                .filter(|line| is_code(line))
                .count();
            if length > FUNCTION_LINES {
                complaints.push(format!(
                    "{name}:{}: a function of {length} lines, at most {FUNCTION_LINES}",
                    first + 1
                ));
            }
            start = None;
        }
    }
    complaints
}

fn is_code(line: &str) -> bool {
    let line = line.trim();
    !line.is_empty() && !line.starts_with("//")
}

fn is_function(line: &str) -> bool {
    let mut words = line.split_whitespace();
    words.by_ref().take(5).any(|word| word == "fn") && !line.trim_start().starts_with("//")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_function_and_a_long_file_are_named() {
        let long = format!("fn f() {{\n{}}}\n", "    g();\n".repeat(FUNCTION_LINES + 1));
        let found = complain("a.rs", &long);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0].starts_with("a.rs:1: a function of 73 lines"),
            "{found:?}"
        );
        let file = "const A: u8 = 1;\n".repeat(FILE_LINES + 1);
        assert_eq!(complain("b.rs", &file).len(), 1);
    }

    #[test]
    fn comments_and_tests_do_not_count() {
        let text = format!(
            "{}fn f() {{\n}}\n\n#[cfg(test)]\nmod tests {{\n{}}}\n",
            "// why\n".repeat(600),
            "    fn g() {}\n".repeat(600)
        );
        assert!(complain("c.rs", &text).is_empty());
        let shared = text.replace("mod tests", "pub(crate) mod tests");
        assert!(complain("c.rs", &shared).is_empty());
    }
}
