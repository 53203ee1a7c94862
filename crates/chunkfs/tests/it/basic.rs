//! What each operation does, once, on a small volume.

use crate::world::World;
use orlop_chunkfs::{Allocate, BLOCK, Caller, FileKind, FsError, ROOT_INO, RenameMode, Seek, SetAttr, XattrMode};

const CX: Caller = Caller { uid: 1000, gid: 1001, request: 0, keeps_times: false };

#[tokio::test(flavor = "multi_thread")]
async fn files_hold_what_is_written_across_blocks_and_chunks() {
    let (_w, fs) = World::new().await;
    let f = fs.mknod(&CX, ROOT_INO, b"f", FileKind::File, 0o644, 0).await.expect("made");
    assert_eq!((f.uid, f.gid, f.perm, f.nlink, f.size), (1000, 1001, 0o644, 1, 0));
    let mut model = Vec::new();
    let mut seed = 7u32;
    for step in 0..300u32 {
        seed = seed.wrapping_mul(1664525).wrapping_add(1013904223);
        let offset = (seed >> 8) as usize % 3_000_000;
        let len = 1 + (seed as usize >> 4) % if step % 7 == 0 { 300_000 } else { 9_000 };
        let data: Vec<u8> = (0..len).map(|i| (i as u32 ^ step) as u8 | 1).collect();
        assert_eq!(fs.write(&CX, f.ino, offset as u64, &data).await, Ok(len));
        if model.len() < offset + len {
            model.resize(offset + len, 0);
        }
        model[offset..offset + len].copy_from_slice(&data);
    }
    assert_eq!(fs.getattr(f.ino).await.expect("there").size, model.len() as u64);
    let got = fs.read(f.ino, 0, 4_000_000).await.expect("read");
    assert!(got == model, "contents differ");
    assert!(fs.read(f.ino, 4_000_000, 10).await.expect("read").is_empty());
    assert_eq!(fs.check(true).await.expect("checked").problems, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn truncating_leaves_zeros_behind_the_end() {
    let (_w, fs) = World::new().await;
    let f = fs.mknod(&CX, ROOT_INO, b"f", FileKind::File, 0o644, 0).await.expect("made");
    fs.write(&CX, f.ino, 0, &[7; 20_000]).await.expect("written");
    let size = |n| SetAttr { size: Some(n), ..SetAttr::default() };
    fs.setattr(&CX, f.ino, &size(5000)).await.expect("cut");
    let a = fs.setattr(&CX, f.ino, &size(10_000)).await.expect("grown");
    assert_eq!((a.size, a.blocks), (10_000, 2 * BLOCK / 512));
    let got = fs.read(f.ino, 0, 20_000).await.expect("read");
    assert!(got[..5000].iter().all(|b| *b == 7) && got[5000..].iter().all(|b| *b == 0));
    assert_eq!(got.len(), 10_000);
    // A vast sparse file is cut by the rows that there are.
    fs.write(&CX, f.ino, 1 << 50, b"far").await.expect("written");
    let a = fs.setattr(&CX, f.ino, &size(1)).await.expect("cut");
    assert_eq!((a.size, a.blocks), (1, BLOCK / 512));
    assert_eq!(fs.seek(f.ino, 0, Seek::Data).await, Ok(0));
    assert_eq!(fs.check(true).await.expect("checked").problems, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn holes_are_punched_found_and_reserved() {
    let (_w, fs) = World::new().await;
    let f = fs.mknod(&CX, ROOT_INO, b"f", FileKind::File, 0o644, 0).await.expect("made");
    fs.write(&CX, f.ino, 0, &[9; 40_960]).await.expect("written");
    fs.fallocate(&CX, f.ino, 5000, 20_000, Allocate::PunchHole).await.expect("punched");
    let got = fs.read(f.ino, 0, 50_000).await.expect("read");
    for (i, b) in got.iter().enumerate() {
        assert_eq!(*b, if (5000..25_000).contains(&i) { 0 } else { 9 }, "byte {i}");
    }
    assert_eq!(fs.seek(f.ino, 0, Seek::Hole).await, Ok(8192));
    assert_eq!(fs.seek(f.ino, 9000, Seek::Hole).await, Ok(9000));
    assert_eq!(fs.seek(f.ino, 9000, Seek::Data).await, Ok(24_576));
    assert_eq!(fs.seek(f.ino, 40_959, Seek::Hole).await, Ok(40_960));
    assert_eq!(fs.seek(f.ino, 40_960, Seek::Data).await, Err(FsError::NoSuchPosition));
    fs.fallocate(&CX, f.ino, 0, 100_000, Allocate::Reserve { keep_size: true }).await.expect("reserved");
    let a = fs.getattr(f.ino).await.expect("there");
    assert_eq!((a.size, a.blocks), (40_960, 25 * 8));
    fs.fallocate(&CX, f.ino, 0, 100_000, Allocate::Reserve { keep_size: false }).await.expect("reserved");
    assert_eq!(fs.getattr(f.ino).await.expect("there").size, 100_000);
    assert_eq!(fs.check(true).await.expect("checked").problems, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn names_move_and_counts_follow() {
    let (_w, fs) = World::new().await;
    let a = fs.mkdir(&CX, ROOT_INO, b"a", 0o755).await.expect("made");
    let b = fs.mkdir(&CX, ROOT_INO, b"b", 0o755).await.expect("made");
    let sub = fs.mkdir(&CX, a.ino, b"sub", 0o755).await.expect("made");
    assert_eq!(fs.getattr(a.ino).await.expect("there").nlink, 3);
    fs.rename(&CX, a.ino, b"sub", b.ino, b"sub2", RenameMode::Replace).await.expect("moved");
    assert_eq!(fs.getattr(a.ino).await.expect("there").nlink, 2);
    assert_eq!(fs.getattr(b.ino).await.expect("there").nlink, 3);
    assert_eq!(fs.parent_of(sub.ino).await, Ok(b.ino));
    assert_eq!(fs.rename(&CX, ROOT_INO, b"b", sub.ino, b"loop", RenameMode::Replace).await, Err(FsError::Invalid));
    let f = fs.mknod(&CX, a.ino, b"f", FileKind::File, 0o600, 0).await.expect("made");
    assert_eq!(fs.rename(&CX, a.ino, b"f", b.ino, b"sub2", RenameMode::NoReplace).await, Err(FsError::Exists));
    assert_eq!(fs.rename(&CX, a.ino, b"f", b.ino, b"sub2", RenameMode::Replace).await, Err(FsError::IsDirectory));
    fs.rename(&CX, a.ino, b"f", b.ino, b"sub2", RenameMode::Exchange).await.expect("exchanged");
    assert_eq!(fs.lookup(b.ino, b"sub2").await.expect("there").ino, f.ino);
    assert_eq!(fs.lookup(a.ino, b"f").await.expect("there").ino, sub.ino);
    assert_eq!(fs.rmdir(&CX, ROOT_INO, b"a").await, Err(FsError::NotEmpty));
    assert_eq!(fs.unlink(&CX, a.ino, b"f").await, Err(FsError::IsDirectory));
    assert_eq!(fs.rmdir(&CX, b.ino, b"sub2").await, Err(FsError::NotDirectory));
    let l = fs.link(&CX, f.ino, ROOT_INO, b"hard").await.expect("linked");
    assert_eq!((l.ino, l.nlink), (f.ino, 2));
    fs.unlink(&CX, b.ino, b"sub2").await.expect("removed");
    assert_eq!(fs.getattr(f.ino).await.expect("there").nlink, 1);
    assert_eq!(fs.check(true).await.expect("checked").problems, Vec::<String>::new());
}

/// Nothing but the root is left, a moment after the last file was forgotten.
async fn soon_empty(fs: &orlop_chunkfs::FileSystem) {
    for _ in 0..200 {
        if fs.usage().inodes == 1 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!((fs.usage().inodes, fs.usage().used_bytes), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unlinked_file_that_is_shortened_by_much_still_goes_when_it_is_forgotten() {
    let (_w, fs) = World::new().await;
    let f = fs.mknod(&CX, ROOT_INO, b"f", FileKind::File, 0o644, 0).await.expect("made");
    fs.write(&CX, f.ino, 0, &[1; 10_000]).await.expect("written");
    fs.write(&CX, f.ino, 200 << 20, &[1; 10_000]).await.expect("written");
    fs.unlink(&CX, ROOT_INO, b"f").await.expect("removed");
    let short = SetAttr { size: Some(5000), ..SetAttr::default() };
    fs.setattr(&CX, f.ino, &short).await.expect("shortened");
    assert_eq!(fs.check(true).await.expect("checked").problems, Vec::<String>::new());
    fs.forget(f.ino, 1);
    soon_empty(&fs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unlinked_files_live_until_they_are_forgotten() {
    let (_w, fs) = World::new().await;
    let f = fs.mknod(&CX, ROOT_INO, b"f", FileKind::File, 0o644, 0).await.expect("made");
    fs.write(&CX, f.ino, 0, &[1; 100_000]).await.expect("written");
    fs.unlink(&CX, ROOT_INO, b"f").await.expect("removed");
    assert_eq!(fs.lookup(ROOT_INO, b"f").await, Err(FsError::NotFound));
    assert_eq!(fs.read(f.ino, 99_999, 5).await.expect("read").len(), 1);
    fs.write(&CX, f.ino, 0, b"still").await.expect("written");
    assert_eq!(fs.usage().inodes, 2);
    fs.forget(f.ino, 1);
    soon_empty(&fs).await;
    assert_eq!(fs.getattr(f.ino).await, Err(FsError::NotFound));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_removed_files_go_whatever_each_of_them_has() {
    let (_w, fs) = World::new().await;
    let mut files = Vec::new();
    for i in 0..100u64 {
        let name = format!("f{i}");
        let f = fs.mknod(&CX, ROOT_INO, name.as_bytes(), FileKind::File, 0o644, 0).await.expect("made");
        // Empty ones, some that share a block's segment, some with small writes pending, far too large ones, attributes.
        match i % 5 {
            0 => {}
            1 => drop(fs.write(&CX, f.ino, 0, &[1; 9000]).await.expect("written")),
            2 => drop(fs.write(&CX, f.ino, 5000, b"part of a block").await.expect("written")),
            3 => drop(fs.write(&CX, f.ino, 200 << 20, &[1; 10_000]).await.expect("written")),
            _ => fs.setxattr(&CX, f.ino, b"user.a", b"1", XattrMode::Any).await.expect("set"),
        }
        files.push((name, f.ino));
    }
    let kept = fs.link(&CX, files[1].1, ROOT_INO, b"kept").await.expect("linked");
    for (name, _) in &files {
        fs.unlink(&CX, ROOT_INO, name.as_bytes()).await.expect("removed");
    }
    for (_, ino) in &files {
        fs.forget(*ino, 1);
    }
    for _ in 0..500 {
        if fs.usage().inodes == 2 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!((fs.usage().inodes, fs.usage().used_bytes), (2, 3 * BLOCK), "what has a name stays, and nothing else");
    assert_eq!(fs.read(kept.ino, 0, 9001).await.expect("read").as_ref(), &[1; 9000]);
    assert_eq!(fs.check(true).await.expect("checked").problems, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hole_reads_as_zeros_whatever_was_read_before() {
    let (_w, fs) = World::new().await;
    let full = fs.mknod(&CX, ROOT_INO, b"full", FileKind::File, 0o644, 0).await.expect("made");
    fs.write(&CX, full.ino, 0, &vec![9; 1 << 20]).await.expect("written");
    let sparse = fs.mknod(&CX, ROOT_INO, b"sparse", FileKind::File, 0o644, 0).await.expect("made");
    fs.fallocate(&CX, sparse.ino, 100 * BLOCK, 50 * BLOCK, Allocate::Reserve { keep_size: false }).await.expect("reserved");
    fs.setattr(&CX, sparse.ino, &SetAttr { size: Some(1 << 20), ..SetAttr::default() }).await.expect("grown");
    let mut model = vec![0; 1 << 20];
    for (offset, bytes) in [(3 * BLOCK, &[5u8; 8192][..]), (9 * BLOCK + 7, b"few"), (120 * BLOCK, &[6; 4096]), (200 * BLOCK, &[7; 4096])] {
        fs.write(&CX, sparse.ino, offset, bytes).await.expect("written");
        model[offset as usize..offset as usize + bytes.len()].copy_from_slice(bytes);
    }
    for (offset, len) in [(0, 1 << 20), (1, 1 << 20), (3 * BLOCK, 64 << 10), (90 * BLOCK + 1, 100_000), (201 * BLOCK, 1 << 20)] {
        // Several, since memory of reads that are over is used again.
        for _ in 0..6 {
            assert!(fs.read(full.ino, 0, 1 << 20).await.expect("read").iter().all(|b| *b == 9));
        }
        let end = (offset as usize + len).min(1 << 20);
        let got = fs.read(sparse.ino, offset, len as u32).await.expect("read");
        assert!(got == model[offset as usize..end], "{len} bytes from {offset}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_folder_is_read_once_over_while_it_changes() {
    let (_w, fs) = World::new().await;
    for i in 0..3000 {
        fs.mknod(&CX, ROOT_INO, format!("file-{i}").as_bytes(), FileKind::File, 0o644, 0).await.expect("made");
    }
    let mut seen = std::collections::HashMap::new();
    let mut cookie = 0;
    let mut round = 0;
    loop {
        let part = fs.readdir(ROOT_INO, cookie, 100).await.expect("read");
        let Some(last) = part.last() else { break };
        cookie = last.cookie;
        for e in &part {
            *seen.entry(e.name.clone()).or_insert(0) += 1;
        }
        // Names outside the range that must be seen come and go.
        let n = format!("extra-{round}");
        fs.mknod(&CX, ROOT_INO, n.as_bytes(), FileKind::File, 0o644, 0).await.expect("made");
        if round > 0 {
            fs.unlink(&CX, ROOT_INO, format!("extra-{}", round - 1).as_bytes()).await.expect("removed");
        }
        round += 1;
    }
    for i in 0..3000 {
        assert_eq!(seen.get(format!("file-{i}").as_bytes()), Some(&1), "file-{i}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn extended_attributes_and_links_and_nodes() {
    let (_w, fs) = World::new().await;
    let s = fs.symlink(&CX, ROOT_INO, b"s", b"../else\xff").await.expect("made");
    assert_eq!(&fs.readlink(s.ino).await.expect("read")[..], b"../else\xff");
    assert_eq!(s.size, 8);
    let n = fs.mknod(&CX, ROOT_INO, b"n", FileKind::CharDevice, 0o600, 0x0103).await.expect("made");
    assert_eq!((n.kind, n.rdev), (FileKind::CharDevice, 0x0103));
    assert_eq!(fs.getxattr(n.ino, b"user.a").await, Err(FsError::NoData));
    fs.setxattr(&CX, n.ino, b"user.a", b"1", XattrMode::Create).await.expect("set");
    assert_eq!(fs.setxattr(&CX, n.ino, b"user.a", b"2", XattrMode::Create).await, Err(FsError::Exists));
    assert_eq!(fs.setxattr(&CX, n.ino, b"user.b", b"2", XattrMode::Replace).await, Err(FsError::NoData));
    fs.setxattr(&CX, n.ino, b"user.b", b"", XattrMode::Any).await.expect("set");
    assert_eq!(fs.listxattr(n.ino).await.expect("listed").len(), 2);
    fs.removexattr(&CX, n.ino, b"user.a").await.expect("removed");
    assert_eq!(fs.removexattr(&CX, n.ino, b"user.a").await, Err(FsError::NoData));
    assert_eq!(fs.lookup(ROOT_INO, &[b'x'; 256]).await, Err(FsError::NameTooLong));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_comes_again_is_answered_and_not_done_twice() {
    let (_w, fs) = World::new().await;
    let cx = Caller { request: 42, ..CX };
    let a = fs.mkdir(&cx, ROOT_INO, b"d", 0o755).await.expect("made");
    let b = fs.mkdir(&cx, ROOT_INO, b"d", 0o755).await.expect("answered");
    assert_eq!(a.ino, b.ino);
    let cx = Caller { request: 43, ..CX };
    fs.rmdir(&cx, ROOT_INO, b"d").await.expect("removed");
    fs.rmdir(&cx, ROOT_INO, b"d").await.expect("answered");
    let cx = Caller { request: 44, ..CX };
    assert_eq!(fs.rmdir(&cx, ROOT_INO, b"d").await, Err(FsError::NotFound));
}

#[tokio::test(flavor = "multi_thread")]
async fn quota_is_exact_and_gives_back() {
    let (_w, fs) = World::new().await;
    fs.set_quota(Some(100 * BLOCK)).expect("set");
    let f = fs.mknod(&CX, ROOT_INO, b"f", FileKind::File, 0o644, 0).await.expect("made");
    fs.write(&CX, f.ino, 0, &vec![1; 100 * BLOCK as usize]).await.expect("fits");
    assert_eq!(fs.write(&CX, f.ino, 100 * BLOCK, b"x").await, Err(FsError::Quota));
    fs.write(&CX, f.ino, 50 * BLOCK, &[2; 5000]).await.expect("overwriting needs no room");
    assert_eq!(fs.statfs(false).expect("asked").free, 0);
    fs.setattr(&CX, f.ino, &SetAttr { size: Some(10 * BLOCK), ..SetAttr::default() }).await.expect("cut");
    assert_eq!(fs.statfs(false).expect("asked").free, 90);
    assert_eq!(fs.fallocate(&CX, f.ino, 0, 101 * BLOCK, Allocate::Reserve { keep_size: false }).await, Err(FsError::Quota));
    assert_eq!(fs.usage().used_bytes, 10 * BLOCK);
    // Zeros that would not fit leave what is there; those over what is there need no room.
    for len in [101 * BLOCK, 1 << 50] {
        let refused = fs.fallocate(&CX, f.ino, 100, len, Allocate::ZeroRange { keep_size: true }).await;
        assert!(matches!(refused, Err(FsError::Quota | FsError::NoSpace)), "{refused:?}");
        assert_eq!(fs.read(f.ino, 0, 10 * BLOCK as u32).await.expect("read"), vec![1; 10 * BLOCK as usize]);
    }
    fs.set_quota(Some(10 * BLOCK)).expect("set");
    fs.fallocate(&CX, f.ino, BLOCK, 8 * BLOCK, Allocate::ZeroRange { keep_size: true }).await.expect("needs no room");
    assert_eq!(fs.usage().used_bytes, 10 * BLOCK);
    let read = fs.read(f.ino, 0, 10 * BLOCK as u32).await.expect("read");
    assert!(read.chunks(BLOCK as usize).enumerate().all(|(n, b)| b.iter().all(|b| *b == u8::from(n == 0 || n == 9))));
    assert_eq!(fs.set_quota(Some(9 * BLOCK)), Err(FsError::Quota));
    assert_eq!(fs.check(true).await.expect("checked").problems, Vec::<String>::new());
}
