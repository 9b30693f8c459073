//! Options on the command line, and what `main` does with them.

use std::process::ExitCode;
use std::str::FromStr;

use feedloop::BoxError;

/// Reads the options, runs the job and reports what went wrong, with its causes. `parse` gives `None` if help was asked for.
pub fn main<A>(
    name: &str,
    usage: &str,
    parse: impl FnOnce(Options) -> Result<Option<A>, String>,
    run: impl FnOnce(&A) -> Result<(), BoxError>,
) -> ExitCode {
    let arguments = match parse(Options { words: std::env::args().skip(1).collect::<Vec<_>>().into_iter() }) {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            println!("{usage}");
            return ExitCode::SUCCESS;
        }
        Err(problem) => {
            eprintln!("{name}: {problem}\n\n{usage}");
            return ExitCode::from(2);
        }
    };
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprint!("{name}: {problem}");
            let mut cause = problem.source();
            while let Some(inner) = cause {
                eprint!(": {inner}");
                cause = inner.source();
            }
            eprintln!();
            ExitCode::FAILURE
        }
    }
}

/// The words of the command line, option by option.
#[derive(Debug)]
pub struct Options {
    words: std::vec::IntoIter<String>,
}

/// One option, and its value if it was attached to it: both `--seed 2` and `--seed=2` are understood.
#[derive(Debug)]
pub struct Given {
    /// The option as written, with its dashes.
    pub name: String,
    attached: Option<String>,
}

impl Options {
    /// The next option.
    pub fn next(&mut self) -> Option<Given> {
        let word = self.words.next()?;
        Some(match word.split_once('=') {
            Some((name, value)) => Given { name: name.to_owned(), attached: Some(value.to_owned()) },
            None => Given { name: word, attached: None },
        })
    }

    /// The value of `given`.
    pub fn value(&mut self, given: &Given) -> Result<String, String> {
        let value = given.attached.clone().or_else(|| self.words.next());
        value.ok_or_else(|| format!("{} needs a value", given.name))
    }

    /// The value of `given` as a number.
    pub fn number<T: FromStr>(&mut self, given: &Given, expected: &str) -> Result<T, String> {
        let text = self.value(given)?;
        text.parse().map_err(|_| format!("{}: expected {expected}, found '{text}'", given.name))
    }

    /// The value of `given` as a share between 0 and 1.
    pub fn share(&mut self, given: &Given) -> Result<f64, String> {
        const EXPECTED: &str = "a share between 0 and 1";
        let value: f64 = self.number(given, EXPECTED)?;
        if (0.0..=1.0).contains(&value) {
            Ok(value)
        } else {
            Err(format!("{}: expected {EXPECTED}, found '{value}'", given.name))
        }
    }
}
