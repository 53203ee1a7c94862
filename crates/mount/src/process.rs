//! What keeper and workers are to the system: processes of their own session that live on when the daemon dies,
//! that the kernel spares when memory runs out, and that stop at once at a defect instead of going on half-broken.

use crate::os;
use orlop_chunkfs::FileSystem;
use std::sync::Weak;
use std::time::Duration;

/// Makes this process one that serves mounts. What the system refuses is said in the log and lived with, but the
/// panic rule is not negotiable.
pub(crate) fn become_server(oom_score: i32) {
    os::bound_allocator();
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        default(info);
        tracing::error!("a defect, stopping at once: {info}");
        std::process::abort();
    }));
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

/// How often a serving process looks whether it has become quiet.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// Looks without work after which it has.
const QUIET: u32 = 3;
/// The kernel counts processor time in hundredths of a second. Less than this between two looks is no work.
const LITTLE: u64 = 10;
/// Memory that a quiet process may keep, in pages of 4 KiB.
const KEPT: u64 = (10 << 20) / 4096;
/// The same for one that is at work, until the allocator is asked for what nobody uses: of what many short-lived rows took, it keeps
/// several times what is in use.
const AT_WORK: u64 = (96 << 20) / 4096;
/// By how much a process has to grow before that is asked again.
const MORE: u64 = (32 << 20) / 4096;
/// Looks at the memory of a process that is at work, for each look whether it has become quiet.
const LOOKS: u32 = 15;

/// When what an opening needed of the program's code is no longer needed.
const OPENED: Duration = Duration::from_secs(1);

/// What the allocator holds in vain, and the program's pages.
fn give_back_all() {
    os::give_back_memory();
    if let Err(e) = os::give_back_code() {
        tracing::debug!("the program's pages stay: {e}");
    }
}

/// Gives memory back when nobody has used a volume for a while, with what `rest` adds: a host has many volumes, and few
/// are busy. From one that is used, only what the allocator holds in vain.
pub(crate) async fn rest_when_quiet(fs: Weak<FileSystem>, rest: impl Fn()) {
    tokio::time::sleep(OPENED).await;
    let before = processor_time();
    tokio::time::sleep(OPENED).await;
    if processor_time() - before < LITTLE {
        let _ = tokio::task::spawn_blocking(give_back_all).await;
    }
    let (mut used, mut quiet, mut rested, mut most) = (processor_time(), 0, false, AT_WORK);
    loop {
        let looks = if quiet == 0 { LOOKS } else { 1 };
        for _ in 0..looks {
            tokio::time::sleep(LOOK_EVERY / looks).await;
            if own_pages() > most {
                let _ = tokio::task::spawn_blocking(os::give_back_memory).await;
                most = AT_WORK.max(own_pages() + MORE);
            }
        }
        let Some(fs) = fs.upgrade() else { return };
        let now = processor_time();
        if now.saturating_sub(used) >= LITTLE {
            (quiet, rested) = (0, false);
        } else {
            quiet += 1;
        }
        // Slow growth goes unnoticed as work, so a quiet process that has grown rests again.
        let again = quiet % QUIET == 0 && pages().0 > KEPT;
        if quiet >= QUIET && (!rested || again) {
            rested = true;
            fs.forget_rows();
            rest();
            let _ = tokio::task::spawn_blocking(give_back_all).await;
            tracing::debug!(pages = pages().0, "quiet: memory given back");
        }
        used = processor_time();
    }
}

/// Processor time of this process so far, in hundredths of a second.
fn processor_time() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name in parentheses may hold anything; user and system time are the twelfth and thirteenth field after it.
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default().split_ascii_whitespace();
    fields.skip(11).take(2).filter_map(|f| f.parse::<u64>().ok()).sum()
}

/// Resident pages, and how many of them are a file's.
fn pages() -> (u64, u64) {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let mut fields = statm.split_ascii_whitespace().skip(1).map(|f| f.parse::<u64>().unwrap_or(0));
    (fields.next().unwrap_or(0), fields.next().unwrap_or(0))
}

/// Resident pages that are no file's.
fn own_pages() -> u64 {
    let (resident, files) = pages();
    resident.saturating_sub(files)
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

    #[test]
    fn work_and_memory_are_seen_and_given_back() {
        let (before, pages) = (super::processor_time(), super::own_pages());
        // Small pieces, which the allocator keeps: between them lies one that stays, so that none goes by itself.
        let mut pieces: Vec<Vec<u8>> = (0..32 << 10).map(|n| vec![n as u8; 1024]).collect();
        let stays = pieces.pop();
        let held = super::own_pages();
        assert!(held > pages + 7000, "32 MiB are seen: {pages} pages, then {held}");
        while super::processor_time() < before + 2 {
            std::hint::black_box(&pieces);
        }
        drop(pieces);
        crate::os::give_back_memory();
        let after = super::own_pages();
        assert!(after < pages + 2000, "they go: {pages} pages, {held}, then {after}");
        drop(stays);
    }
}
