//! Planted mutants: changes of the engine that break one of the rules of `docs/design.md`, each of
//! which the simulation must find, and the engine as it is must not. None of them lives in the
//! tree: a copy of the sources is changed, built and run, so what a mutant replaces must stand in
//! its file exactly once, and one that no longer does fails here.
//!
//! It builds the engine once for each, so it is run by itself:
//! `cargo test --test mutants -- --ignored --nocapture`, or for some of them with
//! `CORED_MUTANTS='part of a name,part of another'`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

mod table;

use table::{MUTANTS, Mutant};

/// Schedules that a mutant may survive at most, and that the engine as it is must.
const SEEDS: &str = "8000";

/// Rooms of the server that the simulation does without: leaving them out makes a build short.
const LEFT_OUT: &[&str] = &["metrics", "api", "front", "node", "ctl"];

#[test]
fn every_mutant_still_applies() {
    let tree = Path::new(env!("CARGO_MANIFEST_DIR"));
    for mutant in MUTANTS {
        let text = fs::read_to_string(tree.join(mutant.file)).expect("a source file");
        let changed = replace_once(&text, mutant.replace, mutant.with);
        assert!(changed.is_some(), "{}: not exactly once in {}", mutant.name, mutant.file);
        assert!(!mutant.rule.is_empty(), "{} breaks no rule", mutant.name);
    }
}

#[test]
#[ignore = "builds the engine once for each mutant"]
fn the_simulation_finds_every_mutant() {
    let wanted = std::env::var("CORED_MUTANTS").unwrap_or_default();
    let tree = Tree::copy();
    let mut runs = vec![("nothing changed", "", tree.run(None))];
    let mut survivors = Vec::new();
    let is_wanted = |mutant: &&Mutant| wanted.split(',').any(|part| mutant.name.contains(part));
    for mutant in MUTANTS.iter().filter(is_wanted) {
        let next = (mutant.name, mutant.rule, tree.run(Some(mutant)));
        // While this one runs, the next is built.
        runs.push(next);
        let (name, rule, before) = runs.remove(0);
        survivors.extend(judge(name, rule, before));
    }
    for (name, rule, run) in runs {
        survivors.extend(judge(name, rule, run));
    }
    assert!(survivors.is_empty(), "{}", survivors.join("\n"));
}

/// Says what became of a run, and what is wrong with that.
fn judge(name: &str, rule: &str, run: Child) -> Option<String> {
    let Output { status, stdout, .. } = run.wait_with_output().expect("the simulation ends");
    let said = String::from_utf8_lossy(&stdout);
    let first = said.lines().next().unwrap_or_default();
    let short: String = first.chars().take(150).collect();
    println!("{rule:<4} {name}: {short}");
    let found = match status.code() {
        Some(0) => false,
        Some(1) if first.starts_with("seed ") => true,
        _ => return Some(format!("{name}: the simulation ended with {status}")),
    };
    // The tree as it is has no rule.
    match (rule.is_empty(), found) {
        (true, true) => Some(format!("the tree as it is: {first}")),
        (false, false) => Some(format!("{name} ({rule}) survives {SEEDS} seeds")),
        _ => None,
    }
}

/// A copy of the tree's sources.
struct Tree {
    root: PathBuf,
    target: PathBuf,
}

impl Tree {
    fn copy() -> Tree {
        let from = Path::new(env!("CARGO_MANIFEST_DIR"));
        let scratch = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let root = scratch.join("mutants");
        if root.exists() {
            fs::remove_dir_all(&root).expect("what an earlier run left can go");
        }
        for name in ["src", "proto", "wal", "loadgen", "benches"] {
            copy_folder(&from.join(name), &root.join(name));
        }
        fs::copy(from.join("Cargo.lock"), root.join("Cargo.lock")).expect("a lock file");
        // The manifest stays as it is, so that every dependency is the one that is built already.
        // Only the name of what comes out differs: it must not pass for the simulation.
        let manifest = fs::read_to_string(from.join("Cargo.toml")).expect("a manifest");
        let manifest = replace_once(&manifest, "name = \"sim\"", "name = \"mutant\"");
        fs::write(root.join("Cargo.toml"), manifest.expect("the simulation's binary"))
            .expect("a manifest");
        fs::rename(root.join("src/bin/sim.rs"), root.join("src/bin/mutant.rs")).expect("a binary");
        let rooms = fs::read_to_string(root.join("src/lib.rs")).expect("the crate's root");
        let is_left_out = |line: &&str| {
            let room = line.strip_prefix("pub mod ").and_then(|rest| rest.strip_suffix(';'));
            room.is_some_and(|room| LEFT_OUT.contains(&room))
        };
        let rooms: Vec<&str> = rooms.lines().filter(|line| !is_left_out(line)).collect();
        fs::write(root.join("src/lib.rs"), rooms.join("\n")).expect("the crate's root");
        let target = scratch.parent().expect("it lies in the target folder").to_path_buf();
        Tree { root, target }
    }

    /// Starts the simulation of the tree with a mutant in it.
    fn run(&self, mutant: Option<&Mutant>) -> Child {
        let program = match mutant {
            None => self.build("nothing changed"),
            Some(mutant) => {
                let file = self.root.join(mutant.file);
                let original = fs::read_to_string(&file).expect("a source file");
                let Some(changed) = replace_once(&original, mutant.replace, mutant.with) else {
                    panic!("{}: not exactly once in {}", mutant.name, mutant.file)
                };
                fs::write(&file, changed).expect("a source file");
                let program = self.build(mutant.name);
                fs::write(&file, original).expect("a source file");
                program
            }
        };
        Command::new(program)
            .args(["--seeds", SEEDS])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the simulation starts")
    }

    /// Builds the simulation; the program is the caller's to run while the next one is built.
    fn build(&self, name: &str) -> PathBuf {
        let output = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--offline", "--workspace", "--features", "sim"])
            .args(["--bin", "mutant"])
            .current_dir(&self.root)
            .env("CARGO_TARGET_DIR", &self.target)
            .env("CARGO_INCREMENTAL", "1")
            .output()
            .expect("cargo runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name} does not build:\n{said}");
        let program = self.root.join(name.replace(' ', "-"));
        fs::copy(self.target.join("debug/mutant"), &program).expect("cargo made it");
        program
    }
}

fn replace_once(text: &str, from: &str, to: &str) -> Option<String> {
    (text.matches(from).count() == 1).then(|| text.replacen(from, to, 1))
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy_folder(&from, &to);
        } else {
            fs::copy(&from, &to).expect("a file");
        }
    }
}
