//! The program: reads the command line, runs the load, checks it if that was asked for, and tells the result.

use std::fs::File;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use cored_loadgen::args::Args;
use cored_loadgen::client::CallError;
use cored_loadgen::hlog::Hlog;
use cored_loadgen::readback::{Question, read_back};
use cored_loadgen::report::{Report, progress_line};
use cored_loadgen::run::{Job, Measured, RunError, run};
use cored_loadgen::verify::Verdict;
use cored_loadgen::workload::Tag;

/// The load could not run.
const EXIT_UNABLE: u8 = 1;
/// The command line is wrong; clap's own number for that.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let args = Args::parse();
    let job = match args.job() {
        Ok(job) => job,
        Err(error) => {
            eprintln!("cored-loadgen: {error}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    match measure(&args, &job) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("cored-loadgen: {error}");
            ExitCode::from(EXIT_UNABLE)
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Run(#[from] RunError),
    #[error("reading back: {0}")]
    ReadBack(#[from] CallError),
    #[error("{name}: {source}")]
    File { name: String, source: io::Error },
}

fn measure(args: &Args, job: &Job) -> Result<u8, Error> {
    let file_error = |name: &std::path::Path| {
        let name = name.display().to_string();
        move |source| Error::File { name, source }
    };
    // Opened first: nobody wants to learn after an hour that the result has no place.
    let mut json = match &args.json {
        Some(path) if path.as_os_str() == "-" => Some(Box::new(io::stdout()) as Box<dyn Write>),
        Some(path) => Some(Box::new(File::create(path).map_err(file_error(path))?) as _),
        None => None,
    };
    let mut hlog = match &args.hlog {
        Some(path) => Some(Hlog::create(path, job.names()).map_err(file_error(path))?),
        None => None,
    };
    let measured = run(job, &mut |progress| {
        if !args.quiet {
            eprintln!("{}", progress_line(progress));
        }
        match &mut hlog {
            Some(hlog) if !progress.warming_up => {
                let start = progress.since_start.saturating_sub(progress.interval);
                hlog.append(start, progress.interval, progress.record)
            }
            _ => Ok(()),
        }
    })?;
    let verdict = if args.verify { Some(verify(args, job, &measured)?) } else { None };
    let report = Report { job, measured: &measured, verdict: verdict.as_ref() };
    if let (Some(json), Some(path)) = (&mut json, &args.json) {
        writeln!(json, "{:#}", report.json()).map_err(file_error(path))?;
    }
    if args.json.as_ref().is_none_or(|path| path.as_os_str() != "-") {
        // A reader that has gone away has seen enough.
        drop(io::stdout().write_all(report.table().as_bytes()));
    }
    Ok(report.exit_code())
}

fn verify(args: &Args, job: &Job, measured: &Measured) -> Result<Verdict, Error> {
    let settings = &job.plan.settings;
    let question = Question {
        endpoint: &args.endpoints[0],
        names: &settings.names,
        value_len_bytes: settings.value_len_bytes,
        tagged: settings.tag == Tag::Number
            && settings.value_len_bytes >= cored_loadgen::verify::TAG_BYTES,
        patience: args.patience.max(Duration::from_secs(1)),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| RunError::Machine { what: "start an executor", source })?;
    let local = tokio::task::LocalSet::new();
    Ok(local.block_on(&runtime, read_back(question, &measured.outcome.acknowledged))?)
}
