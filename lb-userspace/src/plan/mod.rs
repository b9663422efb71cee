//! The way from one image of the maps to another, in an order in which no packet ever sees half a Service.
//!
//! What a frontend leads to stands before the frontend does: names, backends, tables, filter bits, and only then the
//! frontends, each of which flips in one step. Then what is no longer wanted goes, in the reverse order. That a
//! number in use is never given a second meaning is the affair of [`crate::ids`]; this here relies on it.

mod changes;
mod departures;
mod draft;
mod op;

pub use changes::diff;
pub use departures::{Departed, Departures, Leads};
pub use draft::Draft;
pub use op::{FamilyOp, Op};

use draft::{ByStay, SideBefore, Sticky, Touched};
use lb_common::ip::{V4, V6};
use lb_common::mem::Of;

/// A family, as the key to its ops and to its side of a draft.
pub trait Planned: Of {
    /// An op of this family.
    fn op(op: FamilyOp<Self>) -> Op;
    #[doc(hidden)]
    #[expect(private_interfaces, reason = "only this room asks")]
    fn before(touched: &Touched) -> &SideBefore<Self>;
    #[doc(hidden)]
    #[expect(private_interfaces, reason = "only this room asks")]
    fn before_mut(touched: &mut Touched) -> &mut SideBefore<Self>;
    #[doc(hidden)]
    #[expect(private_interfaces, reason = "only this room asks")]
    fn sticky(sticky: &Sticky) -> &ByStay<Self>;
    #[doc(hidden)]
    #[expect(private_interfaces, reason = "only this room asks")]
    fn sticky_mut(sticky: &mut Sticky) -> &mut ByStay<Self>;
}

macro_rules! planned {
    ($ip:ident, $field:ident) => {
        impl Planned for $ip {
            fn op(op: FamilyOp<Self>) -> Op {
                Op::$ip(op)
            }
            #[expect(private_interfaces, reason = "only this room asks")]
            fn before(touched: &Touched) -> &SideBefore<Self> {
                &touched.$field
            }
            #[expect(private_interfaces, reason = "only this room asks")]
            fn before_mut(touched: &mut Touched) -> &mut SideBefore<Self> {
                &mut touched.$field
            }
            #[expect(private_interfaces, reason = "only this room asks")]
            fn sticky(sticky: &Sticky) -> &ByStay<Self> {
                &sticky.$field
            }
            #[expect(private_interfaces, reason = "only this room asks")]
            fn sticky_mut(sticky: &mut Sticky) -> &mut ByStay<Self> {
                &mut sticky.$field
            }
        }
    };
}

planned!(V4, v4);
planned!(V6, v6);
