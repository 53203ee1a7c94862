//! The decoders of this crate as fuzz targets: what comes over the keeper's sockets, from the kernel, and from the
//! handover record. `orlop_model::fuzz` says what they owe.

use crate::fuse;
use crate::keeper;
use crate::kernel::abi::InitRequest;
use crate::kernel::table;
use crate::protocol::{KeeperRequest, WorkerRequest};
use crate::wire::Connection;
use orlop_model::VolumeId;
use orlop_model::fuzz::Target;
use std::io::Write;
use std::os::unix::net::UnixStream;

/// The targets of this crate.
pub const TARGETS: &[Target] = &[
    Target { name: "init-request", run: init_request, seeds: init_seeds, covered: false },
    Target { name: "fuse-request", run: fuse::reads, seeds: fuse::examples, covered: false },
    Target { name: "mount-table", run: mount_table, seeds: table_seeds, covered: false },
    Target { name: "keeper-wire", run: keeper_wire, seeds: wire_seeds, covered: false },
    Target { name: "keeper-record", run: keeper_record, seeds: record_seeds, covered: false },
];

fn init_request(bytes: &[u8]) -> bool {
    let Some(request) = InitRequest::parse(bytes) else { return false };
    assert!(InitRequest::parse(&request.encode()).is_some(), "it comes back");
    true
}

fn init_seeds() -> Vec<Vec<u8>> {
    let request = InitRequest { unique: 2, major: 7, minor: 45, max_readahead: 1 << 17, flags: u64::MAX >> 8 };
    vec![request.encode()]
}

fn mount_table(bytes: &[u8]) -> bool {
    !table::parse(&String::from_utf8_lossy(bytes)).is_empty()
}

fn table_seeds() -> Vec<Vec<u8>> {
    let lines = "36 35 98:0 / /mnt\\0402 rw,noatime shared:1 master:2 - fuse.orlop orlop:db rw\n22 27 0:21 / /proc rw - proc proc rw\n";
    vec![lines.as_bytes().to_vec()]
}

/// Through a real socket, whose other end says these bytes and leaves.
fn keeper_wire(bytes: &[u8]) -> bool {
    let said = |bytes: &[u8]| {
        let (mut ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        // What no socket's buffer takes would wait for a reader.
        ours.write_all(&bytes[..bytes.len().min(64 << 10)]).expect("the buffer takes it");
        Connection::over(theirs)
    };
    let keeper = said(bytes).receive::<KeeperRequest>().is_ok();
    keeper | said(bytes).receive::<WorkerRequest>().is_ok()
}

fn wire_seeds() -> Vec<Vec<u8>> {
    let id = VolumeId::from_bytes([3; 16]);
    let framed = |body: Vec<u8>| [&(body.len() as u32).to_le_bytes()[..], &body].concat();
    let keeper = [
        KeeperRequest::List,
        KeeperRequest::Detach { volume: id, force: true },
        KeeperRequest::Bind { volume: id, dir: "/mnt".to_owned(), read_only: false },
        KeeperRequest::SetQuota { volume: id, bytes: Some(1 << 40) },
    ];
    let worker = [WorkerRequest::Adopt, WorkerRequest::Check { repair: true }, WorkerRequest::SetQuota { bytes: None }];
    let keeper = keeper.iter().map(serde_json::to_vec);
    keeper.chain(worker.iter().map(serde_json::to_vec)).map(|b| framed(b.expect("plain data"))).collect()
}

fn keeper_record(bytes: &[u8]) -> bool {
    keeper::reads_record(bytes)
}

fn record_seeds() -> Vec<Vec<u8>> {
    vec![br#"{"version":1,"keeper_pid":7,"volumes":[]}"#.to_vec()]
}

#[cfg(test)]
mod tests {
    #[test]
    fn any_bytes_are_decoded_or_refused() {
        orlop_model::fuzz::exercise_all(super::TARGETS, 4000);
    }
}
