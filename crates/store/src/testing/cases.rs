//! The cases of the behaviour suite.

use super::{Body, Verdict};
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{Error, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, UpdateVersion};
use std::sync::Arc;

type Store = Arc<dyn ObjectStore>;

macro_rules! list {
    ($($name:ident),* $(,)?) => {
        pub(super) fn all() -> Vec<(&'static str, Body)> {
            vec![$((stringify!($name), (|s| $name(s).boxed()) as Body)),*]
        }
    };
}

list![
    what_was_put_is_read,
    an_empty_object_is_an_object,
    a_large_object_comes_back_whole,
    overwriting_replaces_whole,
    ranges_are_exact,
    a_range_beyond_the_end_is_cut_or_refused,
    absent_is_not_found,
    create_refuses_what_exists,
    of_many_creators_one_wins,
    replace_needs_the_current_version,
    of_many_replacers_none_is_lost,
    deleting_what_is_absent_succeeds,
    deleted_is_gone_at_once,
    listing_shows_exactly_what_is_there,
    a_prefix_is_a_folder_not_a_string,
    listing_from_an_offset_is_strict,
    folders_are_told_from_objects,
    odd_names_come_back_as_given,
    a_multipart_object_appears_only_at_its_end,
    an_aborted_upload_leaves_nothing,
    copies_are_independent,
    a_rename_moves,
    conditions_on_reads_are_kept,
    readers_see_old_or_new_never_a_mix,
];

fn said(what: &'static str) -> impl Fn(Error) -> String {
    move |e| format!("{what}: {e}")
}

fn need(holds: bool, what: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(what()) }
}

async fn get(s: &Store, at: &Path) -> Result<Vec<u8>, Error> {
    Ok(s.get(at).await?.bytes().await?.to_vec())
}

async fn names(s: &Store, prefix: Option<&Path>) -> Result<Vec<String>, Error> {
    let mut all: Vec<String> = s.list(prefix).map_ok(|m| m.location.to_string()).try_collect().await?;
    all.sort();
    Ok(all)
}

fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut x = seed | 1;
    (0..len)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x as u8
        })
        .collect()
}

async fn what_was_put_is_read(s: Store) -> Verdict {
    let (at, body) = (Path::from("a/b/c"), pattern(5000, 1));
    let put = s.put(&at, body.clone().into()).await.map_err(said("put"))?;
    need(get(&s, &at).await.map_err(said("get"))? == body, || "other bytes".into())?;
    let head = s.head(&at).await.map_err(said("head"))?;
    need(head.size == 5000 && head.location == at, || format!("head says {head:?}"))?;
    need(put.e_tag.is_none() || put.e_tag == head.e_tag, || format!("put says {:?}, head {:?}", put.e_tag, head.e_tag))
}

async fn an_empty_object_is_an_object(s: Store) -> Verdict {
    let at = Path::from("empty");
    s.put(&at, Vec::new().into()).await.map_err(said("put"))?;
    need(get(&s, &at).await.map_err(said("get"))?.is_empty(), || "it has bytes".into())?;
    need(s.head(&at).await.map_err(said("head"))?.size == 0, || "head says it has bytes".into())?;
    need(names(&s, None).await.map_err(said("list"))? == ["empty"], || "it is not listed".into())
}

async fn a_large_object_comes_back_whole(s: Store) -> Verdict {
    let (at, body) = (Path::from("large"), pattern(9 << 20, 2));
    s.put(&at, body.clone().into()).await.map_err(said("put"))?;
    need(get(&s, &at).await.map_err(said("get"))? == body, || "other bytes".into())
}

async fn overwriting_replaces_whole(s: Store) -> Verdict {
    let at = Path::from("x");
    s.put(&at, pattern(1000, 3).into()).await.map_err(said("put"))?;
    let old = s.head(&at).await.map_err(said("head"))?;
    s.put(&at, "short".into()).await.map_err(said("put again"))?;
    need(get(&s, &at).await.map_err(said("get"))? == b"short", || "the old bytes show".into())?;
    let new = s.head(&at).await.map_err(said("head"))?;
    need(old.e_tag.is_none() || old.e_tag != new.e_tag, || "another object has the same e_tag".into())
}

async fn ranges_are_exact(s: Store) -> Verdict {
    let (at, body) = (Path::from("r"), pattern(10_000, 4));
    s.put(&at, body.clone().into()).await.map_err(said("put"))?;
    for range in [0..1, 4095..4097, 9_999..10_000, 0..10_000] {
        let got = s.get_range(&at, range.clone()).await.map_err(said("get_range"))?;
        need(got == body[range.start as usize..range.end as usize], || format!("{range:?} is wrong"))?;
    }
    let several = [9_000..9_100, 0..10, 5_000..5_000 + 4096];
    let got = s.get_ranges(&at, &several).await.map_err(said("get_ranges"))?;
    let right = got.len() == 3 && several.iter().zip(&got).all(|(r, b)| b.as_ref() == &body[r.start as usize..r.end as usize]);
    need(right, || "several ranges at once are wrong".into())?;
    let tail = GetOptions { range: Some(GetRange::Suffix(16)), ..GetOptions::default() };
    let got = s.get_opts(&at, tail).await.map_err(said("suffix"))?.bytes().await.map_err(said("suffix"))?;
    need(got == body[9_984..], || "the suffix is wrong".into())
}

async fn a_range_beyond_the_end_is_cut_or_refused(s: Store) -> Verdict {
    let at = Path::from("r");
    s.put(&at, "0123456789".into()).await.map_err(said("put"))?;
    if let Ok(got) = s.get_range(&at, 5..100).await {
        need(got == "56789", || format!("5..100 gave {got:?}"))?;
    }
    need(s.get_range(&at, 20..30).await.is_err(), || "20..30 of ten bytes was answered".into())
}

async fn absent_is_not_found(s: Store) -> Verdict {
    let at = Path::from("no/such");
    for (what, got) in [
        ("get", s.get(&at).await.map(drop)),
        ("head", s.head(&at).await.map(drop)),
        ("range", s.get_range(&at, 0..1).await.map(drop)),
        ("copy", s.copy(&at, &Path::from("b")).await),
        ("rename", s.rename(&at, &Path::from("b")).await),
    ] {
        need(matches!(got, Err(Error::NotFound { .. })), || format!("{what} says {got:?}"))?;
    }
    need(names(&s, Some(&Path::from("no"))).await.map_err(said("list"))?.is_empty(), || "an absent folder has entries".into())?;
    let folder = s.list_with_delimiter(Some(&Path::from("no"))).await.map_err(said("list by folder"))?;
    need(folder.objects.is_empty() && folder.common_prefixes.is_empty(), || "an absent folder has entries".into())
}

async fn create_refuses_what_exists(s: Store) -> Verdict {
    let at = Path::from("d/c");
    s.put_opts(&at, "1".into(), PutMode::Create.into()).await.map_err(said("create"))?;
    let again = s.put_opts(&at, "2".into(), PutMode::Create.into()).await;
    need(matches!(again, Err(Error::AlreadyExists { .. })), || format!("the second create says {again:?}"))?;
    need(get(&s, &at).await.map_err(said("get"))? == b"1", || "the loser's bytes are there".into())?;
    s.delete(&at).await.map_err(said("delete"))?;
    s.put_opts(&at, "3".into(), PutMode::Create.into()).await.map(drop).map_err(said("create after delete"))
}

async fn of_many_creators_one_wins(s: Store) -> Verdict {
    for round in 0..8 {
        let at = Path::from(format!("race/{round}/deep/x"));
        let all = (0..12u8).map(|i| {
            let (s, at) = (Arc::clone(&s), at.clone());
            tokio::spawn(async move { s.put_opts(&at, vec![i].into(), PutMode::Create.into()).await.map(|_| i) })
        });
        let mut winners = Vec::new();
        for one in futures::future::join_all(all).await {
            match one.map_err(|e| e.to_string())? {
                Ok(i) => winners.push(i),
                Err(Error::AlreadyExists { .. }) => {}
                Err(e) => return Err(format!("a creator got {e}")),
            }
        }
        let there = get(&s, &at).await.map_err(said("get"))?;
        need(winners.len() == 1 && there == winners, || format!("winners {winners:?}, bytes {there:?}"))?;
    }
    Ok(())
}

async fn replace_needs_the_current_version(s: Store) -> Verdict {
    let at = Path::from("v");
    let version = |p: object_store::PutResult| PutMode::Update(UpdateVersion { e_tag: p.e_tag, version: p.version });
    let one = version(s.put(&at, "1".into()).await.map_err(said("put"))?);
    let two = s.put_opts(&at, "2".into(), one.clone().into()).await.map_err(said("replace"))?;
    let stale = s.put_opts(&at, "x".into(), one.into()).await;
    need(matches!(stale, Err(Error::Precondition { .. })), || format!("a stale replace says {stale:?}"))?;
    need(get(&s, &at).await.map_err(said("get"))? == b"2", || "a stale replace took effect".into())?;
    s.delete(&at).await.map_err(said("delete"))?;
    let gone = s.put_opts(&at, "x".into(), version(two).into()).await;
    need(matches!(gone, Err(Error::Precondition { .. } | Error::NotFound { .. })), || format!("replacing what is gone says {gone:?}"))?;
    need(s.head(&at).await.is_err(), || "replacing what is gone made it".into())
}

/// Twelve tasks add 1 to a number by compare and replace, while others create and delete beside them.
async fn of_many_replacers_none_is_lost(s: Store) -> Verdict {
    let at = Path::from("count");
    s.put(&at, "0".into()).await.map_err(said("put"))?;
    let add = |s: Store, at: Path| async move {
        for _ in 0..5 {
            loop {
                let got = s.get(&at).await.map_err(said("get"))?;
                let version = UpdateVersion { e_tag: got.meta.e_tag.clone(), version: got.meta.version.clone() };
                let text = got.bytes().await.map_err(said("read"))?;
                let n: u32 = std::str::from_utf8(&text).ok().and_then(|t| t.parse().ok()).ok_or("not a number")?;
                match s.put_opts(&at, (n + 1).to_string().into_bytes().into(), PutMode::Update(version).into()).await {
                    Ok(_) => break,
                    Err(Error::Precondition { .. }) => {}
                    Err(e) => return Err(format!("replace: {e}")),
                }
                s.put(&Path::from("noise"), "x".into()).await.map_err(said("put"))?;
            }
        }
        Ok::<(), String>(())
    };
    let all = (0..12).map(|_| tokio::spawn(add(Arc::clone(&s), at.clone())));
    for one in futures::future::join_all(all).await {
        one.map_err(|e| e.to_string())??;
    }
    let n = get(&s, &at).await.map_err(said("get"))?;
    need(n == b"60", || format!("60 additions gave {:?}", String::from_utf8_lossy(&n)))
}

async fn deleting_what_is_absent_succeeds(s: Store) -> Verdict {
    s.delete(&Path::from("never/was")).await.map_err(said("delete"))?;
    let several = ["a", "b"].map(|n| Ok(Path::from(n)));
    s.put(&Path::from("b"), "x".into()).await.map_err(said("put"))?;
    let gone: Vec<Path> = s.delete_stream(futures::stream::iter(several).boxed()).try_collect().await.map_err(said("delete several"))?;
    need(gone.len() == 2 && names(&s, None).await.map_err(said("list"))?.is_empty(), || format!("deleted {gone:?}"))
}

async fn deleted_is_gone_at_once(s: Store) -> Verdict {
    for i in 0..20 {
        let at = Path::from(format!("f{i}/x"));
        s.put(&at, "x".into()).await.map_err(said("put"))?;
        s.delete(&at).await.map_err(said("delete"))?;
        need(matches!(s.get(&at).await, Err(Error::NotFound { .. })), || "it can still be read".into())?;
    }
    let left = names(&s, None).await.map_err(said("list"))?;
    need(left.is_empty(), || format!("still listed: {left:?}"))?;
    let folder = s.list_with_delimiter(None).await.map_err(said("list by folder"))?;
    need(folder.common_prefixes.is_empty(), || format!("empty folders are left: {:?}", folder.common_prefixes))
}

async fn listing_shows_exactly_what_is_there(s: Store) -> Verdict {
    let mut expected: Vec<String> = (0..300).map(|i| format!("p{}/q/{i:04}", i % 7)).collect();
    for (i, name) in expected.iter().enumerate() {
        s.put(&Path::from(name.as_str()), vec![0; i].into()).await.map_err(said("put"))?;
    }
    expected.sort();
    need(names(&s, None).await.map_err(said("list"))? == expected, || "the list differs".into())?;
    let three: Vec<String> = expected.iter().filter(|n| n.starts_with("p3/")).cloned().collect();
    need(names(&s, Some(&Path::from("p3"))).await.map_err(said("list"))? == three, || "the list of p3 differs".into())?;
    let sizes: u64 = s.list(None).map_ok(|m| m.size).try_fold(0, |a, b| async move { Ok(a + b) }).await.map_err(said("list"))?;
    need(sizes == 300 * 299 / 2, || format!("sizes in the list add up to {sizes}"))
}

async fn a_prefix_is_a_folder_not_a_string(s: Store) -> Verdict {
    for n in ["ab/1", "abc/1", "ab"] {
        // An object beside a folder of the same name cannot be had on a disk; no volume makes one.
        if n != "ab" {
            s.put(&Path::from(n), "x".into()).await.map_err(said("put"))?;
        }
    }
    need(names(&s, Some(&Path::from("ab"))).await.map_err(said("list"))? == ["ab/1"], || "abc shows under ab".into())
}

async fn listing_from_an_offset_is_strict(s: Store) -> Verdict {
    for i in 0..10 {
        s.put(&Path::from(format!("o/{i}")), "x".into()).await.map_err(said("put"))?;
    }
    let found = s.list_with_offset(Some(&Path::from("o")), &Path::from("o/6"));
    let mut rest: Vec<String> = found.map_ok(|m| m.location.to_string()).try_collect().await.map_err(said("list"))?;
    rest.sort();
    need(rest == ["o/7", "o/8", "o/9"], || format!("after o/6: {rest:?}"))
}

async fn folders_are_told_from_objects(s: Store) -> Verdict {
    for n in ["v/a", "v/b/1", "v/b/2", "v/c/d/e", "w/x"] {
        s.put(&Path::from(n), "x".into()).await.map_err(said("put"))?;
    }
    let l = s.list_with_delimiter(Some(&Path::from("v"))).await.map_err(said("list"))?;
    let mut folders: Vec<String> = l.common_prefixes.iter().map(ToString::to_string).collect();
    folders.sort();
    let objects: Vec<String> = l.objects.iter().map(|m| m.location.to_string()).collect();
    need(folders == ["v/b", "v/c"] && objects == ["v/a"], || format!("folders {folders:?}, objects {objects:?}"))
}

async fn odd_names_come_back_as_given(s: Store) -> Verdict {
    let odd = ["with space", "ü-ß-漢", "a%20b", "a+b=c&d", "semi;colon", "quote'\"", "t~ilde", "UPPER", "upper", ".hidden", "x#y"];
    for n in odd {
        let at = Path::from_iter(["odd", n]);
        s.put(&at, n.as_bytes().to_vec().into()).await.map_err(|e| format!("put {n:?}: {e}"))?;
    }
    let listed: Vec<Path> = s.list(Some(&Path::from("odd"))).map_ok(|m| m.location).try_collect().await.map_err(said("list"))?;
    need(listed.len() == odd.len(), || format!("listed {listed:?}"))?;
    for n in odd {
        let at = Path::from_iter(["odd", n]);
        need(listed.contains(&at), || format!("{n:?} is not listed"))?;
        need(get(&s, &at).await.map_err(said("get"))? == n.as_bytes(), || format!("{n:?} holds another's bytes"))?;
    }
    Ok(())
}

async fn a_multipart_object_appears_only_at_its_end(s: Store) -> Verdict {
    let (at, first, last) = (Path::from("m/x"), pattern(5 << 20, 5), pattern(77, 6));
    s.put(&at, "before".into()).await.map_err(said("put"))?;
    let mut up = s.put_multipart(&at).await.map_err(said("begin"))?;
    let (one, two) = (up.put_part(first.clone().into()), up.put_part(last.clone().into()));
    // Parts may arrive in any order.
    two.await.map_err(said("part 2"))?;
    one.await.map_err(said("part 1"))?;
    need(get(&s, &at).await.map_err(said("get"))? == b"before", || "it shows before its end".into())?;
    need(names(&s, None).await.map_err(said("list"))? == ["m/x"], || "its parts are listed".into())?;
    up.complete().await.map_err(said("complete"))?;
    need(get(&s, &at).await.map_err(said("get"))? == [first, last].concat(), || "the parts are joined wrongly".into())
}

async fn an_aborted_upload_leaves_nothing(s: Store) -> Verdict {
    let at = Path::from("m/y");
    let mut up = s.put_multipart(&at).await.map_err(said("begin"))?;
    up.put_part(pattern(100, 7).into()).await.map_err(said("part"))?;
    up.abort().await.map_err(said("abort"))?;
    need(s.head(&at).await.is_err() && names(&s, None).await.map_err(said("list"))?.is_empty(), || "something is left".into())
}

async fn copies_are_independent(s: Store) -> Verdict {
    let (a, b) = (Path::from("a"), Path::from("f/b"));
    s.put(&a, "one".into()).await.map_err(said("put"))?;
    s.copy(&a, &b).await.map_err(said("copy"))?;
    s.put(&a, "two".into()).await.map_err(said("put"))?;
    need(get(&s, &b).await.map_err(said("get"))? == b"one", || "the copy changed with its source".into())?;
    let again = s.copy_if_not_exists(&a, &b).await;
    need(matches!(again, Err(Error::AlreadyExists { .. })), || format!("a careful copy over another says {again:?}"))?;
    s.copy(&a, &b).await.map_err(said("copy over"))?;
    s.delete(&a).await.map_err(said("delete"))?;
    need(get(&s, &b).await.map_err(said("get"))? == b"two", || "the copy went with its source".into())
}

async fn a_rename_moves(s: Store) -> Verdict {
    let (a, b) = (Path::from("g/a"), Path::from("h/i/b"));
    s.put(&a, "one".into()).await.map_err(said("put"))?;
    s.put(&b, "old".into()).await.map_err(said("put"))?;
    s.rename(&a, &b).await.map_err(said("rename"))?;
    need(get(&s, &b).await.map_err(said("get"))? == b"one" && s.head(&a).await.is_err(), || "it did not move".into())
}

async fn conditions_on_reads_are_kept(s: Store) -> Verdict {
    let at = Path::from("c");
    s.put(&at, "x".into()).await.map_err(said("put"))?;
    let tag = s.head(&at).await.map_err(said("head"))?.e_tag.ok_or("no e_tag")?;
    let same = GetOptions { if_match: Some(tag.clone()), ..GetOptions::default() };
    s.get_opts(&at, same).await.map_err(said("if_match"))?;
    let other = GetOptions { if_match: Some("another".into()), ..GetOptions::default() };
    need(matches!(s.get_opts(&at, other).await, Err(Error::Precondition { .. })), || "a wrong if_match was answered".into())?;
    let none = GetOptions { if_none_match: Some(tag), ..GetOptions::default() };
    need(matches!(s.get_opts(&at, none).await, Err(Error::NotModified { .. })), || "a matching if_none_match was answered".into())
}

async fn readers_see_old_or_new_never_a_mix(s: Store) -> Verdict {
    let at = Path::from("mix");
    s.put(&at, vec![0; 200_000].into()).await.map_err(said("put"))?;
    let (writer_store, writer_at) = (Arc::clone(&s), at.clone());
    let writer = tokio::spawn(async move {
        for i in 1..30u8 {
            writer_store.put(&writer_at, vec![i; 200_000].into()).await?;
        }
        Ok::<(), Error>(())
    });
    while !writer.is_finished() {
        let got = get(&s, &at).await.map_err(said("get"))?;
        need(got.len() == 200_000 && got.iter().all(|b| *b == got[0]), || "a reader saw two versions at once".into())?;
    }
    writer.await.map_err(|e| e.to_string())?.map_err(said("put"))
}
