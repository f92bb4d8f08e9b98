//! Command line and environment become values of flags. It knows how flags are written, not what
//! they mean together: that is checked by `check`.

use std::collections::BTreeMap;

use clap::builder::ValueParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, Command};

use super::table::{self, FLAGS, Flag, Form};
use super::{Config, Error, Level, check, value, version_text};

/// Something to be logged once there is a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// How urgent.
    pub level: Level,
    /// What.
    pub text: &'static str,
    /// The name of the fact that goes with it.
    pub key: &'static str,
    /// The fact.
    pub value: String,
}

/// Why no member is to be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Asked for: to standard output, exit code 0.
    Print(String),
    /// The command line can not be read: to standard error, exit code 2.
    Usage(String),
    /// It can be read, but no member can be started with it: to the log, exit code 1.
    Invalid(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Invalid(error)
    }
}

/// Where the value of a flag came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Source {
    Default,
    Environment,
    CommandLine,
}

/// The values of all flags, each of the form that its flag has.
#[derive(Debug)]
pub(super) struct Values(BTreeMap<&'static str, (String, Source)>);

impl Values {
    /// The value of a flag.
    pub(super) fn text(&self, flag: &str) -> &str {
        &self.0[flag].0
    }

    /// Whether somebody gave it.
    pub(super) fn is_set(&self, flag: &str) -> bool {
        self.0[flag].1 != Source::Default
    }
}

/// Reads the arguments, without the program's name, and the environment. `cpus` is how many CPUs
/// this process may use.
///
/// # Errors
/// [`Stop`] says what to do instead of starting.
pub fn read(
    arguments: impl IntoIterator<Item = String>,
    environment: impl IntoIterator<Item = (String, String)>,
    cpus: usize,
) -> Result<(Config, Vec<Note>), Stop> {
    let mut values = Values(
        FLAGS.iter().map(|flag| (flag.name, (flag.default.to_owned(), Source::Default))).collect(),
    );
    command_line(arguments, &mut values)?;
    let mut notes = Vec::new();
    variables(environment, &mut values, &mut notes)?;
    let config = check::config(&values, cpus, &mut notes)?;
    Ok((config, notes))
}

fn command_line(
    arguments: impl IntoIterator<Item = String>,
    values: &mut Values,
) -> Result<(), Stop> {
    let matches = command().try_get_matches_from(as_clap_reads(arguments));
    let matches = matches.map_err(|error| in_gos_words(&error))?;
    if matches.get_flag("help") {
        return Err(Stop::Print(table::help()));
    }
    for flag in FLAGS {
        let Some(text) = matches.get_one::<String>(flag.name) else { continue };
        if let Err(reason) = value::check(flag.form, text) {
            let kind = if flag.form == Form::Bool { "boolean value" } else { "value" };
            let name = flag.name;
            let article = if flag.form == Form::Bool { "" } else { "flag " };
            let line = format!("invalid {kind} {text:?} for {article}-{name}: {reason}");
            return Err(usage(&line));
        }
        values.0.insert(flag.name, (text.clone(), Source::CommandLine));
    }
    if let Some(rest) = matches.get_many::<String>("rest").and_then(|mut rest| rest.next()) {
        return Err(Error::NotAFlag(rest.clone()).into());
    }
    if matches.get_flag("version") {
        return Err(Stop::Print(version_text()));
    }
    Ok(())
}

/// The table as clap wants it. Values stay texts: their forms are Go's.
fn command() -> Command {
    let text = || ValueParser::string();
    let flags = FLAGS.iter().map(|flag| {
        let arg = Arg::new(flag.name).long(flag.name).value_parser(text());
        let arg = arg.action(ArgAction::Set).allow_hyphen_values(true);
        match flag.form {
            Form::Bool => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
            _ => arg.num_args(1),
        }
    });
    let rest = Arg::new("rest").num_args(0..).last(true);
    Command::new("cored")
        .no_binary_name(true)
        .disable_help_flag(true)
        .disable_version_flag(true)
        .args_override_self(true)
        .args(flags)
        .arg(Arg::new("help").long("help").visible_alias("h").action(ArgAction::SetTrue))
        .arg(Arg::new("version").long("version").action(ArgAction::SetTrue))
        .arg(rest.value_parser(text()))
}

/// Go takes flags with one dash as well, and ends them at the first argument that is none.
fn as_clap_reads(arguments: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut read = Vec::new();
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        let name = argument.strip_prefix("--").or(argument.strip_prefix('-'));
        let Some(name) = name.filter(|name| !name.is_empty()) else {
            // For clap the rest begins behind two dashes; in Go these end the flags as well.
            read.push("--".to_owned());
            read.extend(Some(argument).filter(|argument| argument != "--"));
            break;
        };
        read.push(format!("--{name}"));
        if table::find(name).is_some_and(|flag| flag.form != Form::Bool) {
            read.extend(arguments.next());
        }
    }
    read.extend(arguments);
    read
}

fn in_gos_words(error: &clap::Error) -> Stop {
    let named = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(name)) => name.as_str(),
        _ => "",
    };
    let name = named.trim_start_matches('-').split(['=', ' ']).next().unwrap_or_default();
    match error.kind() {
        ErrorKind::UnknownArgument => usage(&format!("flag provided but not defined: -{name}")),
        ErrorKind::InvalidValue | ErrorKind::TooFewValues | ErrorKind::WrongNumberOfValues => {
            usage(&format!("flag needs an argument: -{name}"))
        }
        _ => usage(error.to_string().trim_end()),
    }
}

fn usage(line: &str) -> Stop {
    Stop::Usage(format!("{line}\n{}", table::USAGE))
}

fn variables(
    environment: impl IntoIterator<Item = (String, String)>,
    values: &mut Values,
    notes: &mut Vec<Note>,
) -> Result<(), Error> {
    // Sorted, so that what is logged does not depend on the order of the environment.
    let mut environment: BTreeMap<String, String> = environment
        .into_iter()
        .filter(|(name, _)| name.starts_with("ETCD_") || name.starts_with("CORED_"))
        .collect();
    for flag in FLAGS {
        variable(flag, &mut environment, values, notes)?;
    }
    // Set by images of etcd to say which one they are.
    environment.remove("ETCD_VERSION");
    notes.extend(environment.into_iter().map(|(name, value)| Note {
        level: Level::Warn,
        text: "unrecognized environment variable",
        key: "environment-variable",
        value: format!("{name}={value}"),
    }));
    Ok(())
}

fn variable(
    flag: &'static Flag,
    environment: &mut BTreeMap<String, String>,
    values: &mut Values,
    notes: &mut Vec<Note>,
) -> Result<(), Error> {
    for variable in [Some(flag.own_variable()), flag.etcd_variable()].into_iter().flatten() {
        let Some(value) = environment.remove(&variable) else { continue };
        if value.is_empty() {
            continue;
        }
        if values.is_set(flag.name) {
            notes.push(Note {
                level: Level::Warn,
                text: "environment variable is shadowed by a flag or another variable",
                key: "environment-variable",
                value: variable,
            });
            continue;
        }
        if let Err(reason) = value::check(flag.form, &value) {
            return Err(Error::Variable { variable, value, reason });
        }
        notes.push(Note {
            level: Level::Info,
            text: "recognized and used environment variable",
            key: "variable",
            value: format!("{variable}={value}"),
        });
        values.0.insert(flag.name, (value, Source::Environment));
    }
    Ok(())
}
