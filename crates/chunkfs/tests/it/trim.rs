//! Garbage that goes back to the host's disk where it lies: what stays beside it reads as it was written, whoever reads or dies.

use crate::world::World;
use orlop_chunkfs::{Caller, FileKind, FileSystem, Ino, ROOT_INO};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

const CX: Caller = Caller { uid: 0, gid: 0, request: 0, keeps_times: false };
const B: usize = 4096;

/// Bytes of the disk that the staged files take.
fn taken(w: &World) -> u64 {
    let files = std::fs::read_dir(w.state_dir().join("staged")).expect("there");
    files.map(|e| e.expect("entry").metadata().expect("there").blocks() * 512).sum()
}

fn content(i: u32) -> Vec<u8> {
    (0..60_000 + i * 100).map(|b| (b / 3 + i * 7) as u8).collect()
}

async fn verify(fs: &FileSystem, files: impl Iterator<Item = u32>) {
    for i in files {
        let f = fs.lookup(ROOT_INO, format!("f{i}").as_bytes()).await.expect("there");
        let mut want = content(i);
        if i % 4 == 1 {
            want[8192..12_288].fill(9);
            want[20..23].copy_from_slice(b"abc");
        }
        assert!(fs.read(f.ino, 0, 1 << 20).await.expect("read") == want, "f{i}");
        fs.forget(f.ino, 1);
    }
    assert_eq!(fs.check(true).await.expect("checked").problems, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_between_blocks_that_stay_goes_back_to_the_disk() {
    let (w, fs) = World::new().await;
    for i in 0..100u32 {
        let f = fs.mknod(&CX, ROOT_INO, format!("f{i}").as_bytes(), FileKind::File, 0o644, 0).await.expect("made");
        fs.write(&CX, f.ino, 0, &content(i)).await.expect("written");
        fs.forget(f.ino, 1);
    }
    // A segment is full when its volume was closed.
    fs.close().await.expect("closed");
    let fs = w.open().await;
    let before = taken(&w);
    for i in 0..100u32 {
        let name = format!("f{i}");
        if i % 2 == 0 {
            fs.unlink(&CX, ROOT_INO, name.as_bytes()).await.expect("removed");
        } else if i % 4 == 1 {
            let f = fs.lookup(ROOT_INO, name.as_bytes()).await.expect("there");
            fs.write(&CX, f.ino, 8192, &[9; B]).await.expect("written");
            fs.write(&CX, f.ino, 20, b"abc").await.expect("written");
            fs.forget(f.ino, 1);
        }
    }
    // What was removed is garbage a moment later.
    let (since, mut gone) = (Instant::now(), 0);
    while gone < 50 * 15 {
        assert!(since.elapsed() < Duration::from_secs(20), "{gone} blocks went");
        gone += fs.trim_all().await.expect("trimmed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let after = taken(&w);
    assert!(after + 40 * 60_000 < before, "{before} bytes before, {after} after");
    let odd = || (0..100u32).filter(|i| i % 2 == 1);
    verify(&fs, odd()).await;
    assert!(fs.trim_all().await.expect("trimmed") <= 100, "nearly nothing is left to go");
    fs.abandon().await;
    let fs = w.open().await;
    verify(&fs, odd()).await;
    // What is known of it is what the disk says.
    let space = fs.space().await.expect("asked");
    let garbage = space.host.iter().find(|s| s.kind == "staged garbage").map_or(0, |s| s.bytes);
    assert!(garbage < 2 << 20, "{garbage} bytes of garbage");
    fs.close().await.expect("closed");
}

/// Blocks of a file that is overwritten all the time: number of the block and of the round.
fn block(n: usize, round: u32) -> Vec<u8> {
    let mut block = vec![round as u8; B];
    block[..8].copy_from_slice(&(n as u64).to_le_bytes());
    block[8..12].copy_from_slice(&round.to_le_bytes());
    block
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_reads_while_garbage_goes_reads_what_was_written() {
    const BLOCKS: usize = 4096;
    const PIECE: usize = 256;
    let (w, fs) = World::new().await;
    let f = fs.mknod(&CX, ROOT_INO, b"f", FileKind::File, 0o644, 0).await.expect("made");
    let rounds: Arc<Vec<AtomicU32>> = Arc::new((0..BLOCKS / PIECE).map(|_| AtomicU32::new(0)).collect());
    let write = async |fs: &FileSystem, piece: usize, round: u32| {
        let data: Vec<u8> = (piece * PIECE..(piece + 1) * PIECE).flat_map(|n| block(n, round)).collect();
        fs.write(&CX, f.ino, (piece * PIECE * B) as u64, &data).await.expect("written");
    };
    for piece in 0..BLOCKS / PIECE {
        write(&fs, piece, 0).await;
    }
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..3)
        .map(|r| {
            let (fs, rounds, done) = (fs.clone(), rounds.clone(), done.clone());
            tokio::spawn(read_all_the_time(fs, f.ino, rounds, done, r, PIECE))
        })
        .collect();
    let (began, mut round, mut gone) = (Instant::now(), 0u32, 0);
    while began.elapsed() < Duration::from_secs(4) || gone == 0 {
        assert!(began.elapsed() < Duration::from_secs(60), "nothing goes");
        round += 1;
        // All but a few pieces, which keep the segments.
        for piece in 0..BLOCKS / PIECE {
            if !(piece as u32 + round).is_multiple_of(5) {
                write(&fs, piece, round).await;
                rounds[piece].store(round, Ordering::Release);
            }
        }
        gone += fs.trim_all().await.expect("trimmed");
    }
    done.store(true, Ordering::Release);
    let mut reads = 0;
    for r in readers {
        reads += r.await.expect("no panic");
    }
    assert!(reads > 100, "{reads} reads");
    assert_eq!(fs.check(true).await.expect("checked").problems, Vec::<String>::new());
    fs.close().await.expect("closed");
    drop(w);
}

async fn read_all_the_time(
    fs: Arc<FileSystem>,
    ino: Ino,
    rounds: Arc<Vec<AtomicU32>>,
    done: Arc<AtomicBool>,
    seed: usize,
    each: usize,
) -> usize {
    let (mut reads, mut at) = (0, seed * 977);
    while !done.load(Ordering::Acquire) {
        at = at.wrapping_mul(1_103_515_245).wrapping_add(12_345);
        let piece = (at >> 8) % rounds.len();
        let first = piece * each + (at >> 20) % (each - 16);
        let least = rounds[piece].load(Ordering::Acquire);
        let got = fs.read(ino, (first * B) as u64, 16 * B as u32).await.expect("reads");
        assert_eq!(got.len(), 16 * B);
        for (n, b) in got.chunks(B).enumerate() {
            let round = u32::from_le_bytes(b[8..12].try_into().expect("four bytes"));
            assert!(b == block(first + n, round) && round >= least, "block {} says round {round}, at least {least}", first + n);
        }
        reads += 1;
    }
    reads
}

/// A block that is damaged is told as such, however often its neighbours move.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_damaged_block_beside_one_that_is_overwritten_is_an_error() {
    let (w, fs) = World::new().await;
    let f = fs.mknod(&CX, ROOT_INO, b"f", FileKind::File, 0o644, 0).await.expect("made");
    let data: Vec<u8> = (0..64).flat_map(|n| block(n, 1)).collect();
    fs.write(&CX, f.ino, 0, &data).await.expect("written");
    fs.close().await.expect("closed");
    let staged = std::fs::read_dir(w.state_dir().join("staged")).expect("there").next().expect("one").expect("read").path();
    let mut bytes = std::fs::read(&staged).expect("read");
    let at = bytes.windows(B).position(|b| b == block(7, 1)).expect("the block is there");
    bytes[at + 100] ^= 1;
    std::fs::write(&staged, bytes).expect("written");
    let fs = w.open().await;
    let done = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn({
        let (fs, done) = (fs.clone(), done.clone());
        async move {
            while !done.load(Ordering::Acquire) {
                fs.write(&CX, f.ino, 40 * B as u64, &block(40, 2)).await.expect("written");
            }
        }
    });
    for _ in 0..50 {
        let read = tokio::time::timeout(Duration::from_secs(10), fs.read(f.ino, 0, 64 * B as u32)).await.expect("it ends");
        assert!(matches!(read, Err(orlop_chunkfs::FsError::Corrupt(_))), "{:?}", read.map(|b| b.len()));
    }
    done.store(true, Ordering::Release);
    writer.await.expect("no panic");
    assert!(fs.read(f.ino, 8 * B as u64, 56 * B as u32).await.is_ok());
    fs.close().await.expect("closed");
}
