//! The commands that list rows, and `--watch`.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::thread;
use std::time::Duration;

use anyhow::anyhow;
use lb_common::mem::Native;
use lb_common::tables::Name;

use super::args::{DeviceArgs, FlowArgs, ListArgs, OutputArg, PlaceArgs, PrintArgs};
use super::{Outcome, print};
use crate::bpf::{self, BpfStore, Error, Pins};
use crate::show::{self, Names, Output, Row, render};
use crate::store::Store;

/// How often `--watch` looks.
const LOOK: Duration = Duration::from_secs(1);

pub(super) fn services(args: &ListArgs) -> anyhow::Result<Outcome> {
    let asked = args.service.as_deref();
    repeat(&args.print, |output| {
        let image = open(&args.place)?.read()?;
        rows(&show::services(&image, asked), output, found(&image.names, asked))
    })
}

pub(super) fn backends(args: &ListArgs) -> anyhow::Result<Outcome> {
    let asked = args.service.as_deref();
    repeat(&args.print, |output| {
        let image = open(&args.place)?.read()?;
        rows(&show::backends(&image, asked), output, found(&image.names, asked))
    })
}

pub(super) fn flows(args: &FlowArgs) -> anyhow::Result<Outcome> {
    let list = &args.list;
    let asked = list.service.as_deref();
    repeat(&list.print, |output| {
        let mut store = open(&list.place)?;
        let mut native = Native::new(store.read()?);
        store.maps().read_flows(&mut native)?;
        let seconds = |ticks| bpf::ticks(ticks).as_secs();
        let mut flows = show::flows(&native, bpf::now(), seconds, asked);
        flows.truncate(args.limit.unwrap_or(usize::MAX));
        rows(&flows, output, found(&native.image.names, asked))
    })
}

pub(super) fn traffic(args: &ListArgs) -> anyhow::Result<Outcome> {
    let asked = args.service.as_deref();
    repeat(&args.print, |output| {
        let names = open(&args.place)?.maps().names()?;
        let carried = bpf::traffic(&args.place.pins(), names.keys().copied())?;
        rows(&show::traffic(&names, &carried, asked), output, found(&names, asked))
    })
}

pub(super) fn devices(args: &DeviceArgs) -> anyhow::Result<Outcome> {
    repeat(&args.print, |output| {
        let pins = installed(&args.place)?;
        let notes = args.place.run_dir().last().unwrap_or_default().notes;
        rows(&show::devices(&pins.attachments()?, bpf::device_name, &notes), output, Outcome::Done)
    })
}

fn open(place: &PlaceArgs) -> Result<BpfStore, Error> {
    BpfStore::open(&place.pins())
}

fn installed(place: &PlaceArgs) -> Result<Pins, Error> {
    let pins = place.pins();
    if pins.exist() { Ok(pins) } else { Err(Error::NotInstalled { path: place.pin_root.clone() }) }
}

/// Whether there is a Service port that is asked for.
fn found(names: &BTreeMap<u32, Name>, asked: Option<&str>) -> Outcome {
    let names = Names(names);
    match asked {
        Some(asked) if !names.0.keys().any(|id| names.asked(*id, asked)) => Outcome::Missing,
        _ => Outcome::Done,
    }
}

fn rows<R: Row>(rows: &[R], output: Output, outcome: Outcome) -> anyhow::Result<(String, Outcome)> {
    Ok((render(rows, output).map_err(|error| anyhow!(error))?, outcome))
}

/// Prints once, or, with `--watch`, each time that the text has changed: over the old one in a terminal, below it
/// elsewhere.
pub(super) fn repeat(
    args: &PrintArgs,
    mut look: impl FnMut(Output) -> anyhow::Result<(String, Outcome)>,
) -> anyhow::Result<Outcome> {
    let output = match args.output {
        None => Output::Table,
        Some(OutputArg::Wide) => Output::Wide,
        Some(OutputArg::Json) => Output::Json,
        Some(OutputArg::Yaml) => Output::Yaml,
    };
    let (mut shown, outcome) = look(output)?;
    if outcome == Outcome::Missing && !args.watch {
        let _ = writeln!(io::stderr(), "sluice: no such Service in the maps");
        return Ok(outcome);
    }
    let terminal = io::stdout().is_terminal();
    let clear = if args.watch && terminal { "\x1b[H\x1b[2J" } else { "" };
    print(&format!("{clear}{shown}"))?;
    if !args.watch {
        return Ok(outcome);
    }
    loop {
        thread::sleep(LOOK);
        let (text, _) = look(output)?;
        if text != shown {
            let separator = if terminal { "" } else { "\n" };
            print(&format!("{clear}{separator}{text}"))?;
            shown = text;
        }
    }
}
