//! The command line. It reads the pinned maps and writes none.

mod args;
mod list;
mod settings;
mod status;

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;

use args::{AgentArgs, Command, UninstallArgs};

use crate::agent;
use crate::bpf;
use crate::devices;

pub use args::Cli;

/// What a command found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// All is well.
    Done,
    /// What was asked for is not there.
    Missing,
}

/// Runs the command that was typed. 0: well; 1: not found; 2: an error, said on stderr.
pub fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Missing) => ExitCode::from(1),
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "sluice: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<Outcome> {
    match cli.command {
        Command::Agent(args) => agent(&args),
        Command::Services(args) => list::services(&args),
        Command::Backends(args) => list::backends(&args),
        Command::Flows(args) => list::flows(&args),
        Command::Traffic(args) => list::traffic(&args),
        Command::Devices(args) => list::devices(&args),
        Command::Status(args) => status::status(&args),
        Command::Uninstall(args) => uninstall(&args),
        Command::MountBpffs { folder } => mount_bpffs(&folder),
    }
}

fn agent(args: &AgentArgs) -> anyhow::Result<Outcome> {
    log_to_stderr(&args.log)?;
    let settings = settings::settings(args, |name| std::env::var(name).ok())?;
    agent::keep_together();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.context("cannot start the threads of the agent")?.block_on(agent::run(settings))?;
    Ok(Outcome::Done)
}

fn log_to_stderr(directives: &str) -> anyhow::Result<()> {
    // What libraries say of their own work would drown ours; whoever writes directives means them all.
    let quiet = if directives.contains(['=', ',']) {
        ""
    } else {
        ",aya=warn,aya_obj=warn,netlink_proto=warn,kube_client=off,kube_runtime=off"
    };
    let filter = tracing_subscriber::EnvFilter::try_new(format!("{directives}{quiet}"))
        .with_context(|| format!("--log: {directives:?} is neither a level nor a list of directives"))?
        // Whoever asks for the packets' log gets it: the programs themselves say nothing where it is off.
        .add_directive("sluice_ebpf=debug".parse()?);
    let output = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_target(false);
    output.with_ansi(io::IsTerminal::is_terminal(&io::stderr())).init();
    Ok(())
}

fn uninstall(UninstallArgs { drain, place }: &UninstallArgs) -> anyhow::Result<Outcome> {
    // Held to the end, so that no agent starts meanwhile.
    let run_dir = place.run_dir();
    let lock = run_dir.lock()?;
    if let Some(longest) = drain {
        let tell = |left| writeln!(io::stderr(), "draining: {left} connections go on");
        match agent::drain(&place.pins(), *longest, tell)? {
            0 => writeln!(io::stderr(), "drained: no connection is left")?,
            left => writeln!(io::stderr(), "drained for {longest:?}: {left} connections are cut now")?,
        }
    }
    // First, so that nothing is led to programs that are no more.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start the thread that netlink needs")?;
    let devices = runtime.block_on(devices::remove_service_devices(&place.pin_root));
    let devices = devices.context("cannot remove the service device")?;
    let removed = bpf::uninstall(&place.pins())?;
    run_dir.forget_manifests()?;
    drop(lock);
    let text = match removed.layouts {
        0 => format!("nothing is installed at {}\n", place.pin_root.display()),
        _ => format!(
            "removed {} programs from devices and {} from sockets, and all maps{}\n",
            removed.devices,
            removed.sockets,
            if devices > 0 { ", and the service device" } else { "" },
        ),
    };
    print(&text)?;
    Ok(Outcome::Done)
}

fn mount_bpffs(folder: &Path) -> anyhow::Result<Outcome> {
    let state = if bpf::mount_bpffs(folder)? { "mounted a bpffs" } else { "there is a bpffs" };
    print(&format!("{state} at {}\n", folder.display()))?;
    Ok(Outcome::Done)
}

fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// Whoever reads our output has seen enough.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let is_pipe = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
    error.downcast_ref::<io::Error>().is_some_and(is_pipe)
}
