//! Data directories as they may be found.

use std::os::unix::fs::PermissionsExt as _;

use super::*;

fn config(path: &Path, arguments: &[&str]) -> Config {
    let path = path.display().to_string();
    let own = |text: &&str| (*text).to_owned();
    let fixed = ["--name", "n", "--data-dir", &path];
    let arguments = fixed.iter().chain(arguments).map(own);
    crate::config::read(arguments.collect::<Vec<_>>(), [], 2).expect("valid flags").0
}

fn open(path: &Path, arguments: &[&str]) -> Result<Home, Failure> {
    Home::open(&config(path, arguments), 16)
}

fn temporary() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

#[test]
fn a_new_directory_is_private_and_keeps_its_identity() {
    let above = temporary();
    let path = above.path().join("a/b");
    let mut home = open(&path, &[]).expect("a new directory");
    let mode = fs::metadata(&path).expect("it exists").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    assert_eq!((home.identity().lanes, home.identity().logs), (2, 0));
    home.note_logs(2).expect("written");
    let first = home.identity().clone();
    drop(home);
    // Neither another name nor other URLs change who lives here.
    let urls = "--initial-advertise-peer-urls=http://other:1";
    let again = open(&path, &[urls, "--cores", "1"]).expect("ours");
    assert_eq!(again.identity(), &first);
}

#[test]
fn numbers_depend_on_urls_and_token_only() {
    let numbers = |arguments: &[&str]| numbers(&config(Path::new("d"), arguments));
    let token = ["--initial-cluster-token", "other"];
    let urls = ["--initial-advertise-peer-urls", "http://h:1"];
    assert_eq!(numbers(&[]), numbers(&["--cores", "1"]));
    assert_ne!(numbers(&[]), numbers(&token));
    assert_ne!(numbers(&[]), numbers(&urls));
    assert_ne!(numbers(&[]).0, numbers(&[]).1);
}

#[test]
fn a_second_process_is_refused_and_told_who_was_first() {
    let directory = temporary();
    let _first = open(directory.path(), &[]).expect("free");
    match open(directory.path(), &[]) {
        Err(Failure::Locked { pid, .. }) => assert_eq!(pid, Some(std::process::id())),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_number_of_lanes_is_fixed_by_the_first_start() {
    let directory = temporary();
    drop(open(directory.path(), &["--lanes", "5"]).expect("new"));
    assert_eq!(open(directory.path(), &[]).expect("ours").identity().lanes, 5);
    assert!(open(directory.path(), &["--lanes", "5"]).is_ok());
    let failure = open(directory.path(), &["--lanes", "4"]).expect_err("another number");
    assert!(failure.to_string().starts_with("--lanes 4 differs from the 5 lanes of"));
    assert_eq!(failure.code(), 17);
}

#[test]
fn directories_of_others_are_left_alone() {
    let directory = temporary();
    fs::create_dir_all(directory.path().join("member/snap")).expect("made");
    let failure = open(directory.path(), &[]).expect_err("etcd's");
    assert!(failure.to_string().contains("data of etcd"), "{failure}");
    assert_eq!(failure.code(), 15);

    let directory = temporary();
    fs::write(directory.path().join("letter.txt"), "dear").expect("written");
    let failure = open(directory.path(), &[]).expect_err("somebody's");
    assert!(failure.to_string().contains("letter.txt"), "{failure}");
    assert_eq!(fs::read_dir(directory.path()).expect("readable").count(), 1, "nothing was added");
}

#[test]
fn an_interrupted_first_start_is_begun_anew() {
    let directory = temporary();
    fs::write(directory.path().join(IDENTITY_NEW), "cored: mem").expect("written");
    fs::write(directory.path().join(LOCK), "").expect("written");
    fs::create_dir(directory.path().join(WAL)).expect("made");
    assert!(open(directory.path(), &[]).is_ok());
}

#[test]
fn a_newer_format_is_named() {
    let directory = temporary();
    let text = "cored: member\nformat: 9\nunheard: of\n";
    fs::write(directory.path().join(IDENTITY), text).expect("written");
    match open(directory.path(), &[]) {
        Err(failure @ Failure::NewerFormat { found: 9, supported: FORMAT, .. }) => {
            assert_eq!(failure.code(), 16);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn no_damaged_identity_is_believed() {
    let directory = temporary();
    drop(open(directory.path(), &[]).expect("new"));
    let path = directory.path().join(IDENTITY);
    let good = fs::read(&path).expect("readable");
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut bad = good.clone();
            bad[at] ^= 1 << bit;
            fs::write(&path, &bad).expect("written");
            match read_identity(directory.path()) {
                Ok(found) => {
                    // Only what is not under the check may differ: the case of its own digits,
                    // and line ends behind them.
                    let found = found.expect("a file");
                    fs::write(&path, &good).expect("written");
                    assert_eq!(Some(found), read_identity(directory.path()).expect("good"));
                }
                Err(Failure::NotOurs { .. } | Failure::NewerFormat { .. }) => {}
                Err(other) => panic!("byte {at}: {other}"),
            }
        }
    }
    for len in 0..good.len() {
        fs::write(&path, &good[..len]).expect("written");
        assert!(read_identity(directory.path()).is_err() || len == good.len() - 1, "{len} bytes");
    }
}

#[test]
fn a_name_of_any_kind_survives() {
    let directory = temporary();
    let name = "ü\n\"lanes: 9\"";
    let mut config = config(directory.path(), &[]);
    config.name = name.to_owned();
    drop(Home::open(&config, 16).expect("new"));
    let home = Home::open(&config, 16).expect("ours");
    assert_eq!(home.identity().lanes, 2);
    assert_eq!(home.identity().name, name.escape_default().to_string());
}

#[test]
fn what_can_not_be_made_is_named() {
    let directory = temporary();
    let file = directory.path().join("file");
    fs::write(&file, "").expect("written");
    let failure = open(&file.join("below"), &[]).expect_err("a file is no directory");
    assert_eq!(failure.code(), 14);
    assert!(failure.to_string().contains("below"), "{failure}");
}
