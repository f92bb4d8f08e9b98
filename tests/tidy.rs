//! The tree holds itself to its own rules: which way a `use` may point, what the layers that only
//! think may not touch, words and calls that have no place here, links that lead nowhere, files
//! that have grown too long.

use std::fs;
use std::path::{Path, PathBuf};

/// Files longer than this say more than one thing.
const LINES_MAX: usize = 700;

/// Files that may be longer, each with its reason.
const LONG: &[(&str, &str)] = &[(
    "src/watch/hub/tests/model.rs",
    "the model of the hub, its shards and its clients, is one thing",
)];

/// The rooms of `src/`, bottom to top. A room names only rooms of lower layers and of its own.
const LAYERS: &[&[&str]] = &[
    &["config", "keys", "metrics", "time"],
    &["mvcc", "lease", "auth", "watch", "cluster"],
    &["lane"],
    &["checkpoint", "order", "txn", "route"],
    &["engine", "shard"],
    &["api", "ctl", "front", "node", "peer", "tls"],
];

/// Uses that point up, each with its reason.
const UP: &[(&str, &str, &str)] =
    &[("src/mvcc/mod.rs", "lane", "what the store takes is what a redo record says of a key")];

/// Layers that are driven and never act.
const THINKING: std::ops::RangeInclusive<usize> = 1..=4;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file of the tree with this extension, by its path from the root.
fn files(extension: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().to_path_buf()];
    while let Some(folder) = folders.pop() {
        let mut entries: Vec<PathBuf> = fs::read_dir(&folder)
            .expect("a folder")
            .map(|entry| entry.expect("an entry").path())
            .collect();
        entries.sort();
        for path in entries {
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            if path.is_dir() {
                if name != "target" && name != ".git" && !name.ends_with(".etcd") {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|e| e == extension) {
                let text = fs::read_to_string(&path).expect("text");
                let short = path.strip_prefix(root()).expect("below the root");
                found.push((short.to_string_lossy().into_owned(), text));
            }
        }
    }
    assert!(!found.is_empty(), "no .{extension} file at all");
    found
}

/// The files that exist for tests alone: `#[cfg(test)] mod name;` in the folder's own file.
fn for_tests_alone(files: &[(String, String)]) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in files {
        let folder = match path.strip_suffix("/mod.rs").or(path.strip_suffix("/lib.rs")) {
            Some(folder) => folder.to_owned(),
            None => path.trim_end_matches(".rs").to_owned(),
        };
        let mut lines = text.lines().peekable();
        while let Some(line) = lines.next() {
            let next = lines.peek().copied().unwrap_or_default().trim().trim_start_matches("pub ");
            let name = next.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';'));
            if let Some(name) = name.filter(|_| line.trim() == "#[cfg(test)]") {
                found.extend([format!("{folder}/{name}.rs"), format!("{folder}/{name}/mod.rs")]);
            }
        }
    }
    found
}

/// Every Rust file as [`code`] shows it.
fn all_code() -> Vec<(String, Vec<String>)> {
    let files = files("rs");
    let tests = for_tests_alone(&files);
    let shown = |(path, text): &(String, String)| {
        let lines = if tests.contains(path) { Vec::new() } else { code(path, text) };
        (path.clone(), lines)
    };
    files.iter().map(shown).collect()
}

/// A Rust file without what stands in tests, comments and texts, line for line.
fn code(path: &str, text: &str) -> Vec<String> {
    if path.ends_with("/tests.rs")
        || path.contains("/tests/")
        || path.starts_with("tests/")
        || path.starts_with("benches/")
    {
        return Vec::new();
    }
    let mut lines = Vec::new();
    let mut skipping: Option<usize> = None;
    let mut armed = false;
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        if let Some(depth) = skipping {
            if indent <= depth && line.trim_start().starts_with('}') {
                skipping = None;
            }
            lines.push(String::new());
            continue;
        }
        if line.trim() == "#[cfg(test)]" {
            armed = true;
        } else if armed && !line.trim_start().starts_with("#[") {
            armed = false;
            if line.trim_end().ends_with('{') {
                skipping = Some(indent);
                lines.push(String::new());
                continue;
            }
        }
        lines.push(without_comment_and_text(line));
    }
    lines
}

/// Blanks what lies between quotes, and cuts a comment off.
fn without_comment_and_text(line: &str) -> String {
    let mut out = String::new();
    let mut chars = line.chars().peekable();
    let mut quoted = false;
    while let Some(c) = chars.next() {
        match c {
            '\\' if quoted => {
                chars.next();
            }
            '"' => quoted = !quoted,
            _ if quoted => {}
            '/' if chars.peek() == Some(&'/') => break,
            // A quote as a character.
            '\'' if chars.peek() == Some(&'"') => {
                chars.next();
            }
            c => out.push(c),
        }
    }
    out
}

/// The room of a file of the server, with its layer.
fn room(path: &str) -> Option<(usize, &str)> {
    let name = path.strip_prefix("src/")?;
    let name = name.split('/').next()?.trim_end_matches(".rs");
    let layer = LAYERS.iter().position(|rooms| rooms.contains(&name))?;
    Some((layer, name))
}

fn fail_if_any(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_room_has_a_layer() {
    let mut wrong = Vec::new();
    for (path, _) in files("rs") {
        let house = ["src/lib.rs", "src/main.rs"].contains(&path.as_str())
            || path.starts_with("src/bin/")
            || path.starts_with("src/sim/");
        if path.starts_with("src/") && !house && room(&path).is_none() {
            wrong.push(format!("{path}: its room is in no layer"));
        }
    }
    fail_if_any(&wrong);
}

#[test]
fn uses_point_down() {
    let mut wrong = Vec::new();
    for (path, code) in all_code() {
        let Some((layer, _)) = room(&path) else { continue };
        for (number, line) in code.iter().enumerate() {
            for other in named_rooms(line) {
                let theirs = LAYERS.iter().position(|rooms| rooms.contains(&other));
                let excused = UP.iter().any(|(file, room, _)| *file == path && *room == other);
                if theirs.is_some_and(|theirs| theirs > layer) && !excused {
                    wrong.push(format!("{path}:{}: names `{other}`, a higher layer", number + 1));
                }
            }
        }
    }
    fail_if_any(&wrong);
}

/// The rooms that a line names by `crate::…`, grouped imports too.
fn named_rooms(line: &str) -> Vec<&str> {
    let mut rooms = Vec::new();
    for part in line.split("crate::").skip(1) {
        if let Some(group) = part.strip_prefix('{') {
            let group = group.split('}').next().unwrap_or(group);
            rooms.extend(group.split(',').map(|item| word(item.trim())));
        } else {
            rooms.push(word(part));
        }
    }
    rooms
}

fn word(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    &text[..end]
}

#[test]
fn what_thinks_does_not_act() {
    const ACTS: &[&str] = &[
        "async ",
        ".await",
        "glommio",
        "hyper",
        "tokio",
        "std::fs",
        "std::net",
        "std::thread",
        "std::process",
        "std::env",
        "Instant::now",
        "SystemTime",
        "std::time::Instant",
        "rand::",
        "getrandom",
        "RandomState",
        "println!",
        "eprintln!",
    ];
    let mut wrong = Vec::new();
    for (path, code) in all_code() {
        if !room(&path).is_some_and(|(layer, _)| THINKING.contains(&layer)) {
            continue;
        }
        for (number, line) in code.iter().enumerate() {
            for act in ACTS.iter().filter(|act| has_word(line, act)) {
                wrong.push(format!("{path}:{}: `{act}` in a room that only thinks", number + 1));
            }
        }
    }
    fail_if_any(&wrong);
}

/// Whether `part` stands in the line and does not go on as a longer word.
fn has_word(line: &str, part: &str) -> bool {
    let open = part.ends_with(|c: char| c.is_alphanumeric());
    line.match_indices(part).any(|(at, _)| {
        let next = line[at + part.len()..].chars().next();
        !open || !next.is_some_and(|c| c.is_alphanumeric() || c == '_')
    })
}

#[test]
fn unfinished_and_careless_calls_stay_out() {
    // Put together here, so that this file does not find itself.
    let calls: Vec<String> = ["todo", "unimplemented", "dbg"]
        .iter()
        .map(|name| format!("{name}!"))
        .chain([".unwrap()".to_owned()])
        .collect();
    let words: Vec<String> = [("TO", "DO"), ("FIX", "ME"), ("XX", "X"), ("HA", "CK")]
        .iter()
        .map(|(a, b)| format!("{a}{b}"))
        .collect();
    let mut wrong = Vec::new();
    for (path, code) in all_code() {
        for (number, line) in code.iter().enumerate() {
            for call in calls.iter().filter(|call| line.contains(*call)) {
                wrong.push(format!("{path}:{}: {call} (say what was expected)", number + 1));
            }
        }
    }
    for (path, text) in files("rs") {
        for (number, line) in text.lines().enumerate() {
            for banned in words.iter().filter(|banned| line.contains(*banned)) {
                wrong.push(format!("{path}:{}: {banned} (plans live in issues)", number + 1));
            }
        }
    }
    fail_if_any(&wrong);
}

#[test]
fn every_file_says_what_it_is() {
    let mut wrong = Vec::new();
    for (path, text) in files("rs") {
        let tests = path.ends_with("/tests.rs") || path.contains("/tests/");
        if !tests && !text.trim_start().starts_with("//!") {
            wrong.push(format!("{path}: does not begin by saying what it is"));
        }
    }
    fail_if_any(&wrong);
}

#[test]
fn files_stay_readable() {
    let mut wrong = Vec::new();
    for (path, text) in files("rs") {
        let lines = text.lines().count();
        let allowed = LONG.iter().any(|(long, _)| *long == path);
        if lines > LINES_MAX && !allowed {
            wrong.push(format!("{path}: {lines} lines, more than {LINES_MAX}"));
        } else if lines <= LINES_MAX && allowed {
            wrong.push(format!("{path}: {lines} lines; it needs no exception any more"));
        }
    }
    for (long, reason) in LONG {
        assert!(root().join(long).is_file(), "{long} ({reason}) is gone");
    }
    fail_if_any(&wrong);
}

#[test]
fn unsafe_says_why() {
    let mut wrong = Vec::new();
    for (path, text) in files("rs") {
        let lines: Vec<&str> = text.lines().collect();
        for (number, line) in code(&path, &text).iter().enumerate() {
            let block = line.contains("unsafe {") || line.contains("unsafe impl");
            let above =
                lines[number.saturating_sub(6)..=number].iter().any(|l| l.contains("SAFETY:"));
            if block && !above {
                wrong.push(format!("{path}:{}: unsafe without SAFETY", number + 1));
            }
        }
    }
    fail_if_any(&wrong);
}

#[test]
fn links_lead_somewhere() {
    let mut wrong = Vec::new();
    for (path, text) in files("md") {
        let folder = root().join(&path).parent().expect("a folder").to_path_buf();
        for link in links(&text) {
            let target = link.split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            if !folder.join(target).exists() {
                wrong.push(format!("{path}: {link} leads nowhere"));
            }
        }
    }
    fail_if_any(&wrong);
}

/// Targets of `[text](target)`, outside of code blocks.
fn links(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut fenced = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        for part in line.split("](").skip(1) {
            if let Some(end) = part.find(')') {
                found.push(part[..end].to_owned());
            }
        }
    }
    found
}

#[test]
fn dependencies_say_what_they_save() {
    let mut wrong = Vec::new();
    for manifest in ["Cargo.toml", "proto/Cargo.toml", "wal/Cargo.toml", "loadgen/Cargo.toml"] {
        let text = fs::read_to_string(root().join(manifest)).expect("a manifest");
        let (mut inside, mut commented) = (false, false);
        for line in text.lines() {
            if line.starts_with('[') {
                inside = line == "[dependencies]";
            } else if inside && line.starts_with('#') {
                commented = true;
                continue;
            } else if inside
                && line.contains('=')
                && !line.starts_with(' ')
                && !commented
                && !line.contains('#')
            {
                wrong.push(format!("{manifest}: {line}: what does it save us?"));
            }
            // One comment may speak for the lines right below it.
            commented = commented && !line.is_empty();
        }
    }
    fail_if_any(&wrong);
}
