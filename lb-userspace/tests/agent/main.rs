//! The agent without a kernel: from what was declared to what stands in maps in memory.

mod checked;
mod costs;
mod engine;
mod oracle;
mod prefixes;
mod scripts;
mod world;
