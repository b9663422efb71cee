//! Programs run on single packets (`BPF_PROG_TEST_RUN`): for tests, benchmarks and explanations. What they write into the
//! maps is real.

use std::time::Duration;

use aya::programs::{Program, ProgramFd, TestRun as _, TestRunOptions};

use super::{Error, Hook, Programs};

/// What a program made of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// What it returned: an XDP or TC action.
    pub code: u32,
    /// The packet.
    pub frame: Vec<u8>,
    /// Mean time of a round.
    pub time: Duration,
}

/// Bytes by which a program may lengthen a packet.
const ROOM: usize = 256;

impl Programs {
    /// Runs a packet through a program. With `repeat`, each round but the first sees the packet as the round before
    /// left it.
    ///
    /// # Errors
    /// The kernel does not take the frame: it wants an Ethernet header, and at TC an IP header.
    pub fn run(&self, hook: Hook, frame: &[u8], repeat: u32) -> Result<Run, Error> {
        let name = hook.program();
        let mut out = vec![0; frame.len() + ROOM];
        let options =
            TestRunOptions { data_in: Some(frame), data_out: Some(&mut out), repeat, ..TestRunOptions::new() };
        let run = match self.program(name)? {
            Program::Xdp(program) => program.test_run(options),
            Program::SchedClassifier(program) => program.test_run(options),
            _ => return Err(Error::Load(format!("the program {name} does not run on packets"))),
        };
        let result = run.map_err(|error| Error::program(name, &error))?;
        out.truncate(result.data_size_out as usize);
        Ok(Run { code: result.return_value, frame: out, time: result.duration })
    }

    /// A program as aya names it, for a map of programs.
    ///
    /// # Errors
    /// The object does not have it.
    pub fn fd(&self, hook: Hook) -> Result<&ProgramFd, Error> {
        let name = hook.program();
        self.program(name)?.fd().map_err(|error| Error::program(name, &error))
    }

    /// Instructions that the verifier walked through, by program that was loaded.
    ///
    /// # Errors
    /// The kernel is older than 5.16 and does not count.
    pub fn verified(&self) -> Result<Vec<(String, u32)>, Error> {
        let count = |(name, program): (&str, &Program)| {
            let info = program.info().map_err(|error| Error::program(name, &error))?;
            let count = info.verified_instruction_count();
            Ok((name.to_owned(), count.ok_or_else(|| Error::Load("this kernel counts no instructions".into()))?))
        };
        let mut all = self
            .ebpf_ref()
            .programs()
            .filter(|(_, program)| program.fd().is_ok())
            .map(count)
            .collect::<Result<Vec<_>, Error>>()?;
        all.sort();
        Ok(all)
    }

    fn program(&self, name: &str) -> Result<&Program, Error> {
        let program = self.ebpf_ref().program(name);
        program.ok_or_else(|| Error::Load(format!("the object has no program {name}; build it anew")))
    }
}
