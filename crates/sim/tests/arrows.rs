//! The workspace is as the design draws it: who may use whom, where `unsafe` may stand, how a file begins and how long it is.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The arrows as drawn. A crate may use what it reaches along them, and any crate may use `model`.
const ARROWS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("store", &["model"]),
    ("chunkfs", &["store"]),
    ("mount", &["chunkfs"]),
    ("control", &["store"]),
    ("api", &["control"]),
    ("cli", &["api", "mount"]),
    ("sim", &["cli", "api", "control", "mount", "chunkfs", "store"]),
];

/// Longest file in lines.
const LONGEST: usize = 799;

fn root() -> PathBuf {
    let sim = Path::new(env!("CARGO_MANIFEST_DIR"));
    sim.ancestors().nth(2).expect("the crate lies in crates/ of the workspace").to_owned()
}

fn reach(from: &str) -> BTreeSet<&'static str> {
    let arrows: BTreeMap<_, _> = ARROWS.iter().copied().collect();
    let mut seen = BTreeSet::from(["model"]);
    let mut todo: Vec<&str> = arrows[from].to_vec();
    while let Some(next) = todo.pop() {
        let name = ARROWS.iter().find(|(n, _)| *n == next).expect("arrows lead to crates").0;
        if seen.insert(name) {
            todo.extend(arrows[name]);
        }
    }
    seen
}

#[test]
fn crates_use_each_other_along_the_arrows_only() {
    let out = std::process::Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&out.stdout).expect("cargo writes JSON");
    let packages = metadata["packages"].as_array().expect("a list");
    let short = |name: &str| name.strip_prefix("orlop-").map(ToOwned::to_owned);
    let found: BTreeSet<String> = packages.iter().filter_map(|p| short(p["name"].as_str().expect("a name"))).collect();
    let drawn: BTreeSet<String> = ARROWS.iter().map(|(n, _)| (*n).to_owned()).collect();
    assert_eq!(found, drawn, "the crates of the workspace are not those that the design draws");
    let mut wrong = Vec::new();
    for package in packages {
        let Some(from) = short(package["name"].as_str().expect("a name")) else { continue };
        for dependency in package["dependencies"].as_array().expect("a list") {
            let Some(to) = short(dependency["name"].as_str().expect("a name")) else { continue };
            // A crate's tests may use the crate itself with other features.
            if to != from && !reach(&from).contains(to.as_str()) {
                wrong.push(format!("{from} -> {to}"));
            }
        }
    }
    assert!(wrong.is_empty(), "forbidden: {}", wrong.join(", "));
}

#[test]
fn control_knows_neither_mount_nor_chunkfs() {
    for forbidden in ["mount", "chunkfs", "api", "cli", "sim"] {
        assert!(!reach("control").contains(forbidden));
    }
    assert!(ARROWS.iter().all(|(from, _)| !reach(from).contains("sim")), "nothing depends on sim");
}

fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut todo = vec![root().join("crates")];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(&dir).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                if path.file_name().is_some_and(|n| n != "target") {
                    todo.push(path);
                }
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = std::fs::read_to_string(&path).expect("UTF-8");
                found.push((path.strip_prefix(root()).expect("below the root").to_owned(), text));
            }
        }
    }
    found.sort();
    assert!(found.len() > 30, "only {} sources were found", found.len());
    found
}

#[test]
fn every_file_says_first_what_it_decides_and_is_short() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        if !text.starts_with("//! ") {
            wrong.push(format!("{} does not start with //!", path.display()));
        }
        let lines = text.lines().count();
        if lines > LONGEST {
            wrong.push(format!("{} has {lines} lines", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The text with comments and literals blanked, so that only code is left; lines stay where they are.
fn code_only(text: &str) -> String {
    let b = text.as_bytes();
    let mut out = String::with_capacity(b.len());
    let mut i = 0;
    let blank = |out: &mut String, part: &[u8]| out.extend(part.iter().map(|c| if *c == b'\n' { '\n' } else { ' ' }));
    while i < b.len() {
        let rest = &b[i..];
        let end = if rest.starts_with(b"//") {
            i + rest.iter().position(|c| *c == b'\n').unwrap_or(rest.len())
        } else if rest.starts_with(b"/*") {
            i + text[i..].find("*/").map_or(rest.len(), |n| n + 2)
        } else if rest.starts_with(b"r\"") || rest.starts_with(b"r#") {
            let hashes = rest[1..].iter().take_while(|c| **c == b'#').count();
            if rest.get(1 + hashes) == Some(&b'"') {
                let close = format!("\"{}", "#".repeat(hashes));
                let body = i + 2 + hashes;
                text[body..].find(&close).map_or(b.len(), |n| body + n + close.len())
            } else {
                i
            }
        } else if rest[0] == b'"' {
            let mut j = i + 1;
            while j < b.len() && b[j] != b'"' {
                j += if b[j] == b'\\' { 2 } else { 1 };
            }
            (j + 1).min(b.len())
        } else if rest.starts_with(b"'\"'") || rest.starts_with(b"'\\") {
            i + 2 + rest[2..].iter().position(|c| *c == b'\'').unwrap_or(0) + 1
        } else {
            i
        };
        if end > i {
            blank(&mut out, &b[i..end]);
            i = end;
        } else {
            out.push(if b[i].is_ascii() { b[i] as char } else { ' ' });
            i += 1;
        }
    }
    out
}

fn has_word(line: &str, word: &str) -> bool {
    line.split(|c: char| !(c.is_alphanumeric() || c == '_')).any(|w| w == word)
}

#[test]
fn unsafe_stands_in_mount_alone_and_each_has_its_proof() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let in_mount = path.starts_with("crates/mount");
        let lines: Vec<&str> = text.lines().collect();
        for (n, line) in code_only(&text).lines().enumerate() {
            let code = has_word(line, "unsafe");
            if !in_mount && (code || (has_word(line, "unsafe_code") && line.contains("allow"))) {
                wrong.push(format!("{}:{}: unsafe outside crates/mount", path.display(), n + 1));
            }
            let proven = lines[n.saturating_sub(6)..=n].iter().any(|l| l.contains("SAFETY"));
            if in_mount && code && !proven {
                wrong.push(format!("{}:{}: unsafe without a SAFETY comment above it", path.display(), n + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_scanner_tells_code_from_text() {
    let text = "let a = \"unsafe\"; // unsafe\n/* unsafe\n*/ let b = r#\"unsafe\"#; let q = '\"'; unsafe {}\nlet unsafe_code = 1;";
    let found: Vec<usize> = code_only(text).lines().enumerate().filter(|(_, l)| has_word(l, "unsafe")).map(|(n, _)| n).collect();
    assert_eq!(found, [2]);
}
