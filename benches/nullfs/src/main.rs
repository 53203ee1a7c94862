//! The floor of the benchmark: a FUSE file system that keeps everything in memory and does the least work that each
//! request allows. What it cannot do faster, no file system behind the same kernel interface can.
//!
//! `orlop-nullfs [--fast] DIR` mounts on a folder and serves it until it is unmounted. It asks the kernel for what
//! Orlop's cache=strict asks for, with `--fast` for the write-back cache, opens without a message and long-lived names.

mod memory;
mod requests;

use fuser::{Config, InitFlags, MountOption, SessionACL};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// As many as a worker of Orlop has reading requests.
const THREADS: usize = 4;

/// How the kernel may cache.
#[derive(Debug, Clone, Copy)]
struct Mode {
    fast: bool,
}

impl Mode {
    /// How long names and attributes may be kept.
    fn ttl(self) -> Duration {
        Duration::from_secs(if self.fast { 86_400 } else { 1 })
    }

    fn wanted(self) -> InitFlags {
        let strict = InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_READDIRPLUS_AUTO
            | InitFlags::FUSE_ASYNC_DIO
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_CACHE_SYMLINKS;
        let fast = InitFlags::FUSE_WRITEBACK_CACHE | InitFlags::FUSE_NO_OPEN_SUPPORT | InitFlags::FUSE_NO_OPENDIR_SUPPORT;
        if self.fast { strict | fast } else { strict }
    }
}

fn main() -> ExitCode {
    let mut mode = Mode { fast: false };
    let mut point = None;
    for argument in std::env::args_os().skip(1) {
        if argument == "--fast" {
            mode.fast = true;
        } else if point.is_none() {
            point = Some(PathBuf::from(argument));
        } else {
            point = None;
            break;
        }
    }
    let Some(point) = point else {
        eprintln!("usage: orlop-nullfs [--fast] DIR");
        return ExitCode::from(2);
    };
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName("nullfs".to_owned()),
        MountOption::Subtype("nullfs".to_owned()),
        MountOption::DefaultPermissions,
        MountOption::CUSTOM("max_read=1048576".to_owned()),
    ];
    config.acl = SessionACL::All;
    config.n_threads = Some(THREADS);
    match fuser::mount(requests::NullFs::new(mode), &point, &config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: mounting on {}: {e}", point.display());
            ExitCode::FAILURE
        }
    }
}
