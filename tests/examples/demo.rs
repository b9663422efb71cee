//! The demo by itself; `cargo xtask demo` does the set-up first.

fn main() -> anyhow::Result<()> {
    let keep = std::env::args().skip(1).any(|argument| argument == "--keep");
    sluice_tests::demo::run(&sluice_tests::demo::DemoOptions { keep })
}
