//! How a task fails, and the exit code that says so.
use std::{fmt, process::ExitCode};

/// This machine, or the arguments, do not allow the task: exit code 2. The text is one whole sentence.
#[derive(Debug)]
pub(crate) struct NotPossible(pub(crate) String);

impl fmt::Display for NotPossible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NotPossible {}

/// The same as an error to return at once.
pub(crate) fn not_possible(sentence: impl Into<String>) -> anyhow::Error {
    NotPossible(sentence.into()).into()
}

/// 0: all well. 1: a check failed. 2: the machine or the arguments do not allow it.
pub(crate) fn exit_code(outcome: &anyhow::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.downcast_ref::<NotPossible>().is_some() => ExitCode::from(2),
        Err(_) => ExitCode::FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_lacks_something_is_exit_code_2_also_under_context() {
        let error = not_possible("No root.").context("setting up");
        assert_eq!(exit_code(&Err(error)), ExitCode::from(2));
        assert_eq!(exit_code(&Err(anyhow::anyhow!("red"))), ExitCode::FAILURE);
        assert_eq!(exit_code(&Ok(())), ExitCode::SUCCESS);
    }
}
