//! A client under measurement: does the tasks that it reads, see `sluice_tests::bench::client`.

fn main() -> anyhow::Result<()> {
    sluice_tests::bench::client()
}
