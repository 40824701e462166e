//! The way out of a process in which Python and MLX have run.

use std::io::Write;

/// Flushes standard output and ends the process with `code`.
///
/// The interpreter is not finalized and no destructor of a library runs: MLX's static ones abort the process where a
/// thread of it is still alive. Close the engines first ([`crate::Host::shutdown`]); what they hold in memory is lost.
pub fn exit(code: i32) -> ! {
    // Nobody is left to tell of a failure.
    let _ = std::io::stdout().flush();
    exit_now(code)
}

/// Ends the process at once: no flush, no lock, safe in the middle of anything.
#[expect(unsafe_code, reason = "std has no exit that leaves C++'s static destructors alone")]
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(code) }
}
