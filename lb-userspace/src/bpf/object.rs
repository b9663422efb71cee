//! The object that the build embeds, and the programs in it.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::thread;

use aya::maps::ProgramArray;
use aya::programs::Program;
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};
use aya_log::EbpfLogger;
use lb_common::datapath::Stage;
use lb_common::ip::Family;
use lb_common::summed::{Place, UNTOLD, call};
use lb_common::tables::map;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::btf::Summed;
use super::error::chain;
use super::flow_tables::{FlowTables, LargerTables, View};
use super::grow::Sizes;
use super::sockets::is_of_sockets;
use super::{Capacities, Error, Hook, Pins, clock, pins};

static EMBEDDED: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sluice-ebpf.o"));

/// The global of aya-log that says how much the programs log.
const LOG_LEVEL: &str = "AYA_LOG_LEVEL";
/// The global that says what the tables of flows look like, by family.
const FLOWS_SHAPE: &str = "FLOWS_SHAPE";
/// The global that says how large those are whose entries move, by family.
const FLOWS_OLD: &str = "FLOWS_OLD";
/// The global that says how the kernel counts time.
const JIFFIES: &str = "JIFFIES";
/// The global that says where the kernel tells the kind of a checksum.
const SUMMED: &str = "SUMMED";
/// The ring buffer of aya-log: the only map that each agent has anew.
const LOG_MAP: &str = "AYA_LOGS";

/// What is lost where the kernel does not tell the kind of a checksum.
const SLOWER: &str = "each translated packet at TC costs 25 to 40 ns more: this kernel has no type information \
    (CONFIG_DEBUG_INFO_BTF) that tells the kind of its checksum, or is older than Linux 6.2";

/// The end of the names of programs that stand in for stages.
const ABSENT: &str = "absent";

/// Threads that load programs: two thirds of the work are four of them.
const THREADS: usize = 4;

/// The kernel's side, as the build made it.
#[derive(Clone, Copy, Debug)]
pub struct Object {
    bytes: &'static [u8],
    /// Whether programs read the kernel's own structures, where it tells of them.
    is_told: bool,
}

/// The programs in the kernel, by name.
#[derive(Debug)]
pub struct Programs {
    fds: BTreeMap<String, OwnedFd>,
    /// Keeps what the programs need and nobody pins, such as the ring buffer of their logs.
    ebpf: Ebpf,
}

/// How programs are loaded.
struct Load<'a> {
    /// Sizes of the maps; without these they are as they are pinned.
    capacities: Option<&'a Capacities>,
    /// Which tables of flows they see.
    view: View,
    part: Part,
    /// Whether they log packets.
    log: bool,
}

/// Which programs are loaded.
#[derive(Clone, Copy)]
enum Part {
    All,
    /// All but the stages of IPv6 where nothing of that family was ever served.
    Needed,
    /// Of these, what may use the tables of flows: those of sockets do not.
    Flows,
    /// These stages.
    V6,
}

impl Part {
    /// Whether a program is one of them.
    fn programs(self, pins: &Pins, log: bool) -> impl Fn(&str) -> bool + Sync {
        // Who follows the log of these programs would not hear of others.
        let all = matches!(self, Self::All) || log || serve_v6(pins);
        move |name| match self {
            Self::V6 => is_v6_stage(name),
            Self::All | Self::Needed => all || !is_v6_stage(name),
            Self::Flows => !is_of_sockets(name) && (all || !is_v6_stage(name)),
        }
    }
}

/// Held while programs are loaded.
static LOADING: Mutex<()> = Mutex::new(());

impl Object {
    /// The object in this binary.
    ///
    /// # Errors
    /// The binary was built without.
    pub fn embedded() -> Result<Self, Error> {
        if EMBEDDED.is_empty() { Err(Error::NoObject) } else { Ok(Self { bytes: EMBEDDED, is_told: true }) }
    }

    /// The same as on a kernel that tells nothing of its structures.
    #[must_use]
    pub const fn untold(self) -> Self {
        Self { is_told: false, ..self }
    }

    /// Loads the programs, over the pinned maps where there are any, and pins all. Larger maps take the place of pinned ones, so
    /// nothing may be written until all that was attached runs these programs. The warnings say which options have no effect yet.
    ///
    /// # Errors
    /// The kernel refuses a map or a program, or the pinned maps are of other shapes.
    pub fn load(self, pins: &Pins, capacities: &Capacities, log: bool) -> Result<(Programs, Vec<String>), Error> {
        let view = View::Joined(LargerTables::default());
        self.load_some(pins, Load { capacities: Some(capacities), view, part: Part::All, log })
    }

    /// The same, but where no Service of IPv6 was ever served from these pins its stages, half of all that the kernel has to
    /// verify, wait for the first one ([`Object::load_v6`]). Until then packets that would come to them are let go.
    ///
    /// # Errors
    /// As of [`Object::load`].
    pub fn load_needed(
        self,
        pins: &Pins,
        capacities: &Capacities,
        log: bool,
    ) -> Result<(Programs, Vec<String>), Error> {
        let view = View::Joined(LargerTables::default());
        self.load_some(pins, Load { capacities: Some(capacities), view, part: Part::Needed, log })
    }

    /// Loads the programs of packets over the maps as they are, but beside the tables of flows larger ones are made, and the
    /// programs see both. They take the places of others ([`Attacher::replace`](super::Attacher::replace)).
    ///
    /// # Errors
    /// As of [`Object::load`].
    pub fn load_joined(self, pins: &Pins, larger: LargerTables, log: bool) -> Result<Programs, Error> {
        let load = Load { capacities: None, view: View::Joined(larger), part: Part::Flows, log };
        self.load_some(pins, load).map(|(programs, _)| programs)
    }

    /// The same over tables of flows that have all entries ([`Move::entries`](super::Move::entries)).
    ///
    /// # Errors
    /// As of [`Object::load`].
    pub fn load_moved(self, pins: &Pins, log: bool) -> Result<Programs, Error> {
        let load = Load { capacities: None, view: View::Moved, part: Part::Flows, log };
        self.load_some(pins, load).map(|(programs, _)| programs)
    }

    /// Loads the stages of IPv6, if they are not there yet. To be called before there is a frontend of that family.
    ///
    /// # Errors
    /// The kernel refuses one.
    pub fn load_v6(pins: &Pins) -> Result<(), Error> {
        if serve_v6(pins) {
            return Ok(());
        }
        // The maps are pinned, and stay as large as they are. The stages keep what they need of the rest.
        let load = Load { capacities: None, view: View::Named, part: Part::V6, log: false };
        Self::embedded()?.load_some(pins, load).map(drop)
    }

    fn load_some(
        self,
        pins: &Pins,
        Load { capacities, view, part, log }: Load<'_>,
    ) -> Result<(Programs, Vec<String>), Error> {
        // What is needed depends on what was loaded.
        let _one_at_a_time = LOADING.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = part.programs(pins, log);
        let (level, folder) = (if log { 4u8 } else { 0u8 }, pins.maps());
        let tables = FlowTables::of(pins, view, &capacities.copied().unwrap_or_default())?;
        let (flows_shape, flows_old) = (tables.shapes(), tables.old());
        let mut loader = EbpfLoader::new();
        let jiffies = clock::jiffies().words();
        let summed = if self.is_told { Summed::of_this_kernel() } else { None };
        let place = Place::word(summed.map(|summed| summed.place));
        loader.override_global(FLOWS_SHAPE, &flows_shape[..], true).override_global(FLOWS_OLD, &flows_old[..], true);
        loader.override_global(JIFFIES, &jiffies[..], true).override_global(SUMMED, &place, true);
        loader.default_map_pin_directory(&folder).override_global(LOG_LEVEL, &level, false);
        // What declares it cannot say that it is pinned.
        for array in [map::SLOTS, map::TRAFFIC].into_iter().chain(map::BACKENDS) {
            loader.map_pin_path(array, folder.join(array));
        }
        // A log of each run of the verifier takes time; where it refuses, aya asks again with a log.
        loader.verifier_log_level(VerifierLogLevel::STATS);
        let sizes = Sizes::of(&folder, capacities)?;
        sizes.apply(&mut loader);
        tables.apply(&mut loader);
        let mut warnings = sizes.warnings.clone();
        warnings.extend(capacities.iter().flat_map(|capacities| tables.warnings(capacities)));
        if summed.is_none() {
            warnings.push(SLOWER.to_owned());
        }
        let mut ebpf =
            loader.load(bytemuck::cast_slice(&self.told(summed))).map_err(|error| Error::Load(chain(&error)))?;
        sizes.fill()?;
        tables.set_seeds()?;
        let mut fds = BTreeMap::new();
        verify(&mut ebpf, &wanted)?;
        sizes.settle()?;
        for (hook, array) in [Hook::Xdp, Hook::TcIngress, Hook::TcEgress].into_iter().zip(map::STAGES) {
            join(&mut ebpf, hook, array, &wanted)?;
        }
        for (name, program) in ebpf.programs().filter(|(name, _)| wanted(name)) {
            let fd = program.fd().map_err(|error| Error::program(name, &error))?;
            let fd = fd.as_fd().try_clone_to_owned().map_err(|error| Error::Load(error.to_string()))?;
            let path = pins.programs().join(name);
            pins::repin(fd.as_fd(), &path).map_err(|source| Error::file("pin a program at", &path, source))?;
            fds.insert(name.to_owned(), fd);
        }
        Ok((Programs { fds, ebpf }, warnings))
    }

    /// The object, with the calls of the running kernel where it has only marks.
    fn told(self, summed: Option<Summed>) -> Vec<u64> {
        let mut words = vec![0; self.bytes.len().div_ceil(size_of::<u64>())];
        bytemuck::cast_slice_mut(&mut words).iter_mut().zip(self.bytes).for_each(|(to, from)| *to = *from);
        if let Some(Summed { function, .. }) = summed {
            let marks = words.iter_mut().filter(|word| **word == UNTOLD.to_le());
            marks.for_each(|word| *word = call(function).to_le());
        }
        words
    }
}

/// Whether stages of IPv6 are loaded.
fn serve_v6(pins: &Pins) -> bool {
    // They are pinned when all of them are where they are called.
    let mut v6 = Stage::ALL.into_iter().filter(|(stage, _)| stage.family() == Family::V6);
    v6.all(|(_, end)| pins.programs().join(format!("{}_{end}", Hook::TcIngress.program())).exists())
}

fn is_v6_stage(name: &str) -> bool {
    let mut v6 = Stage::ALL.into_iter().filter(|(stage, _)| stage.family() == Family::V6);
    // Behind the name of a hook.
    v6.any(|(_, end)| name.strip_suffix(end).is_some_and(|hook| hook.ends_with('_')))
}

/// Puts the programs of stages where the one of a hook calls them, in the place of those of an older agent; those that are not
/// wanted yet are stood in for.
fn join(ebpf: &mut Ebpf, hook: Hook, array: &'static str, wanted: impl Fn(&str) -> bool) -> Result<(), Error> {
    let missing = |what: &str| Error::Load(format!("the object has no {what}; build it anew with `cargo xtask build`"));
    let map = ebpf.take_map(array).ok_or_else(|| missing(&format!("map {array}")))?;
    let mut programs = ProgramArray::try_from(map).map_err(|error| Error::Load(chain(&error)))?;
    for (stage, end) in Stage::ALL.into_iter().filter(|(stage, _)| stage.is_at(hook.side())) {
        let mut name = format!("{}_{end}", hook.program());
        if !wanted(&name) {
            name = format!("{}_{ABSENT}", hook.program());
            // Where only some programs are loaded, the others have theirs.
            if !wanted(&name) {
                continue;
            }
        }
        let program = ebpf.program(&name).ok_or_else(|| missing(&format!("program {name}")))?;
        let fd = program.fd().map_err(|error| Error::program(&name, &error))?;
        programs.set(stage.index(), fd, 0).map_err(|error| Error::Map {
            act: "write",
            map: array,
            reason: format!("at the place of {name}: {}", chain(&error)),
        })?;
    }
    Ok(())
}

/// Has the kernel verify the programs, which is most of what a start costs: as many at a time as there are processors for.
fn verify(ebpf: &mut Ebpf, wanted: impl Fn(&str) -> bool + Sync) -> Result<(), Error> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let programs = Mutex::new(ebpf.programs_mut().filter(|(name, _)| wanted(name)));
    let next = || programs.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        while let Some((name, program)) = next() {
            load(program).map_err(|error| Error::program(name, &error))?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let others: Vec<_> = (1..threads.min(THREADS)).map(|_| scope.spawn(work)).collect();
        let panicked = |_| Err(Error::Load("a thread that loads programs panicked".to_owned()));
        others.into_iter().map(|other| other.join().unwrap_or_else(panicked)).fold(work(), Result::and)
    })
}

fn load(program: &mut Program) -> Result<(), aya::programs::ProgramError> {
    match program {
        Program::Xdp(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        // The build makes no other kind; it would stay unloaded, and whoever attaches it is told so.
        _ => Ok(()),
    }
}

impl Programs {
    /// A program.
    ///
    /// # Errors
    /// The object does not have it.
    pub(super) fn get(&self, name: &str) -> Result<BorrowedFd<'_>, Error> {
        let missing =
            || Error::Load(format!("the object has no program {name}; build it anew with `cargo xtask build`"));
        self.fds.get(name).map(OwnedFd::as_fd).ok_or_else(missing)
    }

    /// Has others take the place of those that have the same names.
    pub(super) fn replace(&mut self, Self { fds, ebpf }: Self) {
        self.fds.extend(fds);
        // What is left of those before holds itself what it needs.
        self.ebpf = ebpf;
    }

    pub(super) const fn ebpf_ref(&self) -> &Ebpf {
        &self.ebpf
    }

    pub(super) fn ebpf(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// Hands what the programs log to the logger of this process, for as long as it lives. False where they log nothing.
    ///
    /// # Errors
    /// The ring buffer cannot be opened.
    pub fn follow_log(&mut self) -> Result<bool, Error> {
        if self.ebpf.map(LOG_MAP).is_none() {
            return Ok(false);
        }
        let logger = EbpfLogger::init(&mut self.ebpf).map_err(|error| Error::map("read", LOG_MAP, &error))?;
        // SAFETY: the logger owns its file descriptor, always gives the same one, and closes it only when dropped.
        let logger = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) };
        let mut logger = logger.map_err(|error| Error::map("follow", LOG_MAP, &std::io::Error::from(error)))?;
        tokio::spawn(async move {
            while let Ok(mut guard) = logger.readable_mut().await {
                guard.get_inner_mut().flush();
                guard.clear_ready();
            }
        });
        Ok(true)
    }
}
