//! The tables of flows, as programs list them for us ([`lb_common::tables::listing`]): none of their pages is ever mapped
//! into our memory.

use std::fs;
use std::io;
use std::marker::PhantomData;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use lb_common::ip::{Family, V4};
use lb_common::tables::listing::{Head, Listed, MOVERS, PROGRAMS, SOUGHT};
use lb_common::tables::{Entry, Flow, FlowKey};

use super::maps::Of;
use super::sys;

/// Bytes of a question without entries: the kernel takes no packet without an Ethernet header.
const QUESTION: usize = 64;

/// Bytes of a question and of its answer: much less than an answer needs that a CPU is busy with for a tenth of a millisecond.
const ROOM: usize = 16 << 10;

/// The table of a family, as the pinned programs see it.
#[derive(Debug)]
pub(super) struct FlowTable<A> {
    /// Where these are.
    programs: PathBuf,
    family: PhantomData<A>,
}

impl<A: Of> FlowTable<A> {
    /// With the programs in this folder.
    pub(super) fn new(programs: &Path) -> Self {
        Self { programs: programs.to_owned(), family: PhantomData }
    }

    /// Visits all entries, and says how many runs of a program that took. Those that come or go meanwhile may be missed, those that
    /// move to a larger table may be visited twice: the later visit tells what is newer.
    ///
    /// # Errors
    /// The program is not there, or does not run.
    pub(super) fn each(&self, mut each: impl FnMut(&FlowKey<A>, &Flow<A>)) -> io::Result<u32> {
        // A program that sees the larger table, too, is pinned before the first entry moves. Each pin has a number of its own.
        let pin = || fs::metadata(self.programs.join(PROGRAMS[A::FAMILY as usize][0])).ok().map(|pin| pin.ino());
        let mut runs = 0;
        loop {
            let listing = pin();
            runs += self.list(&mut each)?;
            if pin() == listing {
                return Ok(runs);
            }
        }
    }

    /// Has the program that is pinned now list all entries.
    fn list(&self, each: &mut impl FnMut(&FlowKey<A>, &Flow<A>)) -> io::Result<u32> {
        let mut program = Program::open(&self.programs, PROGRAMS[A::FAMILY as usize][0])?;
        let (mut next, mut runs) = (0, 0);
        loop {
            let question = Head { bucket: next, ..Head::EMPTY };
            let head = program.ask::<A>(question, &[], ROOM)?;
            program.listed(head).for_each(|Listed { key, flow, .. }| each(&key, &flow));
            runs += 1;
            if head.bucket <= next {
                return Err(io::Error::other("the program that lists flows does not go on"));
            }
            if head.bucket >= head.buckets {
                return Ok(runs);
            }
            next = head.bucket;
        }
    }

    /// What looks for entries by their keys.
    ///
    /// # Errors
    /// The program is not there.
    pub(super) fn seeker(&self) -> io::Result<Seeker<A>> {
        let program = Program::open(&self.programs, PROGRAMS[A::FAMILY as usize][1])?;
        Ok(Seeker { program, family: PhantomData })
    }
}

/// Looks for entries of flows by their keys. To be kept for a moment only: when a table has grown it finds none there.
#[derive(Debug)]
pub struct Seeker<A> {
    program: Program,
    family: PhantomData<A>,
}

impl<A: Of> Seeker<A> {
    /// Looks for the entries of these keys, and says which are there; those that are to be removed go, as they were read, unless
    /// they have had a packet since.
    ///
    /// # Errors
    /// The program does not run.
    pub(super) fn seek(
        &mut self,
        sought: &[Listed<A>],
        removes: bool,
        mut found: impl FnMut(Listed<A>),
    ) -> io::Result<()> {
        let most = ((ROOM - size_of::<Head>()) / size_of::<Listed<A>>()).min(SOUGHT as usize);
        for some in sought.chunks(most) {
            let entries = u32::try_from(some.len()).unwrap_or(0);
            let head = Head { entries, removes: removes.into(), ..Head::EMPTY };
            let head = self.program.ask(head, some, size_of::<Head>() + size_of_val(some))?;
            self.program.listed(head).filter(|listed| listed.found != 0).for_each(&mut found);
        }
        Ok(())
    }
}

/// What a pass over a table did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Moved {
    /// Entries that it moved.
    pub(super) moved: u64,
    /// Those that it could not move.
    pub(super) left: u64,
}

/// Moves the entries of the table that joined programs see beside the one that has room.
pub(super) struct Mover(Program);

impl Mover {
    /// That of a family.
    ///
    /// # Errors
    /// The program is not there.
    pub(super) fn open(programs: &Path, family: Family) -> io::Result<Self> {
        Program::open(programs, MOVERS[family as usize]).map(Self)
    }

    /// Goes over all of so many buckets.
    ///
    /// # Errors
    /// The program does not run.
    pub(super) fn pass(&mut self, buckets: u32) -> io::Result<Moved> {
        let (mut next, mut all) = (0, Moved::default());
        while next < buckets {
            let head = self.0.ask::<V4>(Head { bucket: next, ..Head::EMPTY }, &[], QUESTION)?;
            if head.bucket <= next {
                return Err(io::Error::other("the program that moves flows does not go on"));
            }
            next = head.bucket;
            all = Moved { moved: all.moved + u64::from(head.entries), left: all.left + u64::from(head.removes) };
        }
        Ok(all)
    }
}

/// A program, with what it was asked and what it answered.
#[derive(Debug)]
struct Program {
    program: OwnedFd,
    question: Vec<u8>,
    answer: Vec<u8>,
}

impl Program {
    fn open(folder: &Path, name: &str) -> io::Result<Self> {
        let program = sys::open(&folder.join(name))
            .map_err(|error| io::Error::other(format!("the program {name} is not pinned: {error}")))?;
        Ok(Self { program, question: Vec::with_capacity(ROOM), answer: vec![0; ROOM] })
    }

    /// Asks, with so many bytes in all.
    fn ask<A: Of>(&mut self, head: Head, entries: &[Listed<A>], len: usize) -> io::Result<Head> {
        self.question.clear();
        self.question.extend_from_slice(bytes(&[head]));
        self.question.extend_from_slice(bytes(entries));
        self.question.resize(len, 0);
        sys::run(self.program.as_fd(), &self.question, &mut self.answer)?;
        value(&self.answer, 0).ok_or_else(|| io::Error::other("the program that lists flows answers too little"))
    }

    /// The entries of the last answer.
    fn listed<A: Of>(&self, head: Head) -> impl Iterator<Item = Listed<A>> {
        let at = |index| size_of::<Head>() + index * size_of::<Listed<A>>();
        (0..head.entries as usize).map_while(move |index| value(&self.answer, at(index)))
    }
}

fn bytes<T: Entry>(values: &[T]) -> &[u8] {
    let () = T::SOLID;
    // SAFETY: an Entry has no padding, so that all bytes of the slice are set.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

fn value<T: Entry>(bytes: &[u8], at: usize) -> Option<T> {
    let bytes = bytes.get(at..at + size_of::<T>())?;
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the slice has as many bytes as the value, and an Entry is plain integers, for which all bytes are values.
    Some(unsafe {
        value.as_mut_ptr().cast::<u8>().copy_from_nonoverlapping(bytes.as_ptr(), size_of::<T>());
        value.assume_init()
    })
}
