//! Maps as people read them: rows, and tables, JSON and YAML of rows. Pure: what to show enters as an image.

mod backends;
mod devices;
mod flows;
mod names;
mod services;
mod status;
mod table;
mod traffic;

pub use backends::{BackendRow, Share, backends};
pub use devices::{DeviceRow, devices};
pub use flows::{FlowRow, flows};
pub use names::{Names, endpoint, protocol};
pub use services::{ServiceRow, services};
pub use status::{AgentFacts, CounterRow, MapRow, SourceFacts, StatusReport};
pub use table::{Output, Row, age, render};
pub use traffic::{TrafficRow, traffic};
