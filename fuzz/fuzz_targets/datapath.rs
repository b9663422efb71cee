//! See `sluice_tests::fuzz::datapath`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sluice_tests::fuzz::datapath(data));
