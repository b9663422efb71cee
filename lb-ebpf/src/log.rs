//! Debug logs. The level is a constant of the loaded program, 0 unless the agent was told otherwise: the verifier then
//! removes all of this.

use aya_ebpf::EbpfContext;
use aya_log_ebpf::debug;
use lb_common::verdict::Reason;

/// A packet was dropped or refused.
#[inline(always)]
pub(crate) fn dropped(ctx: &impl EbpfContext, reason: Reason) {
    debug!(ctx, "dropped: {}", reason.label());
}
