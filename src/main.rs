//! The `cored` server: reads its flags, sets up its log, and runs a member until it ends. `cored verify`
//! reads a data directory instead.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use cored::config::{self, Level, LogConfig, Note, Stop};
use cored::node::{self, limits, logging};

/// Requests, answers and blocks of some KiB come and go all the time, for which glibc's allocator looks
/// through lists and joins neighbours: a seventh of a JSON request's CPU.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What a wrong command line ends with, as Go's.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "verify") {
        return verify(&arguments[1..]);
    }
    let lossy = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
    let arguments = arguments.into_iter().map(lossy);
    let environment = std::env::vars_os().map(|(name, value)| (lossy(name), lossy(value)));
    match config::read(arguments, environment, limits::cpus().len()) {
        Ok((config, notes)) => {
            if let Err(error) = logging::start(&config.log) {
                say(&format!("cored: can not open the log: {error}\n"));
                return ExitCode::FAILURE;
            }
            notes.iter().for_each(log_note);
            let silent = !config.log.outputs.iter().any(|output| output == "stderr");
            match node::run(config) {
                Ok(()) => ExitCode::SUCCESS,
                Err(failure) => {
                    let code = failure.code();
                    tracing::error!(error = %failure, exit_code = code, "the member has to stop");
                    if silent {
                        say(&format!("cored: {failure}\n"));
                    }
                    ExitCode::from(&failure)
                }
            }
        }
        Err(Stop::Print(text)) => {
            // Whoever closed the other end has seen enough.
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(Stop::Usage(text)) => {
            say(&text);
            ExitCode::from(USAGE)
        }
        Err(Stop::Invalid(error)) => {
            match logging::start(&LogConfig::default()) {
                Ok(()) => tracing::error!(error = %error, "failed to verify flags"),
                Err(_) => say(&format!("cored: {error}\n")),
            }
            ExitCode::FAILURE
        }
    }
}

/// `cored verify DIR [--wal-dir DIR]`.
fn verify(arguments: &[OsString]) -> ExitCode {
    let (data_dir, wal_dir) = match arguments {
        [data_dir] => (PathBuf::from(data_dir), None),
        [data_dir, flag, wal_dir] if flag == "--wal-dir" => (data_dir.into(), Some(wal_dir)),
        _ => {
            say("usage: cored verify DIR [--wal-dir DIR]\n");
            return ExitCode::from(USAGE);
        }
    };
    match node::verify::verify(&data_dir, wal_dir.map(Path::new)) {
        Ok(verified) => {
            let _ = write!(std::io::stdout(), "{verified}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            say(&format!("cored: {failure}\n"));
            ExitCode::from(&failure)
        }
    }
}

fn log_note(note: &Note) {
    let Note { level, text, key, value } = note;
    let fact = format!("{key}: {value}");
    match level {
        Level::Debug | Level::Info => tracing::info!(fact, "{text}"),
        Level::Warn | Level::Error => tracing::warn!(fact, "{text}"),
    }
}

fn say(text: &str) {
    // With standard error closed there is nobody to tell.
    let _ = std::io::stderr().write_all(text.as_bytes());
}
