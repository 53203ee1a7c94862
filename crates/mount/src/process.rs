//! What keeper and workers are to the system: processes of their own session that live on when the daemon dies,
//! that the kernel spares when memory runs out, and that stop at once at a defect instead of going on half-broken.

use crate::os;

/// Makes this process one that serves mounts. What the system refuses is said in the log and lived with, but the
/// panic rule is not negotiable.
pub(crate) fn become_server(oom_score: i32) {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        default(info);
        tracing::error!("a defect, stopping at once: {info}");
        std::process::abort();
    }));
    // A keeper leaves its signals to one thread by blocking them, and what it starts inherits that.
    if let Err(e) = nix::sys::signal::SigSet::all().thread_unblock() {
        tracing::warn!("taking signals: {e}");
    }
    // A started program inherits what its starter's thread had blocked, which is no decision of this one.
    if let Err(e) = nix::sys::signal::SigSet::all().thread_unblock() {
        tracing::warn!("unblocking signals: {e}");
    }
    // Fails for the leader of a process group, as from a shell, which is its own session's business then.
    if let Err(e) = nix::unistd::setsid() {
        tracing::debug!("staying in the session of the starting process: {e}");
    }
    if let Err(e) = std::env::set_current_dir("/") {
        tracing::warn!("leaving the working folder: {e}");
    }
    if let Err(e) = std::fs::write("/proc/self/oom_score_adj", oom_score.to_string()) {
        tracing::warn!("asking to be spared when memory runs out: {e}");
    }
    if let Err(e) = os::become_io_flusher() {
        tracing::warn!("becoming an I/O flusher: {e}");
    }
    if let Err(e) = os::raise_file_limit() {
        tracing::warn!("raising the limit of open files: {e}");
    }
}

/// When a process started, in clock ticks since boot: with its number, what names it for good.
pub(crate) fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; after it come the fields from the third on.
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_process_has_a_start_time_that_stays() {
        let me = std::process::id();
        let first = super::start_time(me).expect("running");
        assert_eq!(super::start_time(me), Some(first));
        assert!(super::start_time(1).expect("init runs") <= first);
    }
}
