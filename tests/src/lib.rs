//! The lab and the integration tests on it.
