//! Packs round trip, and no byte of one can change unnoticed.

use super::*;
use crate::host::{HostDisk, RealDisk};
use object_store::memory::InMemory;
use orlop_model::OutagePolicy;
use std::time::Duration;

const ID: [u8; 16] = [0xab; 16];
const FRAME: usize = FRAME_BLOCKS as usize * B;

/// A staged file of blocks that compress well in some frames and not at all in others.
fn staged(blocks: u32) -> (tempfile::TempDir, Arc<dyn HostFile>, Vec<u8>) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = RealDisk.create(&dir.path().join("s")).expect("created");
    let mut data = vec![0; blocks as usize * B];
    for (n, frame) in data.chunks_mut(FRAME).enumerate() {
        if n % 2 == 0 {
            rand::RngCore::fill_bytes(&mut rand::rng(), frame);
        } else {
            frame.fill(n as u8);
        }
    }
    file.write_at(&data, BLOCK).expect("written");
    (dir, file, data)
}

fn of(blocks: u32) -> Of {
    Of { volume: [9; 16], segment: 77, id: ID, blocks }
}

fn flat(payload: PutPayload) -> Bytes {
    payload.iter().flat_map(|b| b.iter().copied()).collect::<Vec<u8>>().into()
}

#[test]
fn raw_and_mixed_packs_round_trip() {
    for blocks in [1, 63, 64, 65, 300] {
        for compression in [Compression::None, Compression::Zstd] {
            let (_dir, file, data) = staged(blocks);
            let bytes = flat(encode(&of(blocks), &*file, compression, &Arc::default()).expect("encoded"));
            let pack = Pack { blocks, bytes: bytes.len() as u64 };
            let mixed = compression == Compression::Zstd && blocks > 64;
            assert_eq!(is_raw(&pack), !mixed, "{blocks} {compression:?}");
            let whole = verify_whole(&bytes).expect("whole");
            assert_eq!(whole.of, of(blocks));
            let tail = tail_range(&pack);
            let table = parse_tail(&pack, &bytes[tail.start as usize..tail.end as usize]).expect("table");
            for n in 0..frames(blocks) {
                let want = &data[n as usize * FRAME..n as usize * FRAME + frame_bytes(blocks, n)];
                assert_eq!(whole.frame(n).expect("frame"), want);
                if !mixed {
                    let range = raw_range(n * FRAME_BLOCKS..((n + 1) * FRAME_BLOCKS).min(blocks));
                    assert_eq!(&bytes[range.start as usize..range.end as usize], want);
                    assert_eq!(table[n as usize].at, range.start);
                }
            }
        }
    }
}

#[test]
fn every_flipped_byte_and_every_cut_is_found() {
    // One frame raw and one compressed, the first block-sized, so that every byte can be tried.
    for compression in [Compression::None, Compression::Zstd] {
        let (_dir, file, _) = staged(66);
        let bytes = flat(encode(&of(66), &*file, compression, &Arc::default()).expect("encoded"));
        // Data bytes are all alike to the checksum of their frame: some of them do, all of everything else.
        let tail = bytes.len() - (2 * ENTRY + FOOTER);
        let places = (0..HEADER + 64).chain((HEADER + 64..tail).step_by(997)).chain(tail - 64..bytes.len());
        for at in places {
            let mut wrong = bytes.to_vec();
            wrong[at] ^= 1 << (at % 8);
            assert!(verify_whole(&wrong.into()).is_err(), "byte {at}");
        }
        for len in (0..HEADER + 64).chain((HEADER + 64..tail).step_by(997)).chain(tail - 64..bytes.len()) {
            assert!(verify_whole(&bytes.slice(..len)).is_err(), "cut to {len}");
        }
        let mut longer = bytes.to_vec();
        longer.push(0);
        assert!(verify_whole(&longer.into()).is_err());
    }
}

#[test]
fn every_byte_of_a_pack_of_one_block_is_covered() {
    let (_dir, file, _) = staged(1);
    let bytes = flat(encode(&of(1), &*file, Compression::None, &Arc::default()).expect("encoded"));
    for at in 0..bytes.len() {
        let mut wrong = bytes.to_vec();
        wrong[at] ^= 0x10;
        assert!(verify_whole(&wrong.into()).is_err(), "byte {at}");
        assert!(verify_whole(&bytes.slice(..at)).is_err(), "cut to {at}");
    }
}

#[tokio::test]
async fn an_upload_may_come_twice_and_never_replaces_another_object() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let patience = Patience::new(OutagePolicy::Wait, Duration::ZERO);
    let target = Target { store: &store, prefix: "v", volume: [9; 16], buffers: &Arc::default() };
    let up = async |id: &[u8; 16], number: u64, blocks: u32, file: &Arc<dyn HostFile>| {
        upload(&patience, &target, number, id, file.clone(), blocks, Compression::Zstd).await
    };
    let (_dir, file, _) = staged(130);
    let first = up(&ID, 5, 130, &file).await.expect("uploaded");
    let there = store.get(&path("v", &ID)).await.expect("is there").bytes().await.expect("reads");
    assert_eq!((first.blocks, first.bytes), (130, there.len() as u64));
    assert_eq!(up(&ID, 5, 130, &file).await, Ok(first));
    // Another host has staged less of it: what is there counts.
    assert_eq!(up(&ID, 5, 100, &file).await, Ok(first));
    assert!(matches!(up(&ID, 5, 131, &file).await, Err(FsError::Corrupt(_))));
    assert!(matches!(up(&ID, 6, 130, &file).await, Err(FsError::Corrupt(_))));
    assert_eq!(store.get(&path("v", &ID)).await.expect("is there").bytes().await.expect("reads"), there);
    store.put(&path("v", &ID), there.slice(..there.len() - 1).into()).await.expect("damaged");
    assert!(matches!(up(&ID, 5, 130, &file).await, Err(FsError::Corrupt(_))));
}
