//! Outages of a second, a minute and ten minutes under each policy, with figures: `./dev soak outage`.

use crate::cloud_outage::{Cloud, Writer, fsyncing, nobody_waits_who_needs_nothing, soak, write_and_sync};
use orlop_store::testing::{Fault, Faults};
use std::path::PathBuf;
use std::time::{Duration, Instant};

const LENGTHS: [u64; 3] = [1, 60, 600];
/// What docs/SEMANTICS.md says of `fail` and `readonly`, and what may be added by a request that was under way.
const DEADLINE: std::ops::Range<Duration> = Duration::from_secs(20)..Duration::from_secs(45);
const HEALED: Duration = Duration::from_secs(20);
/// Commands that need nothing of the store; a debug build on a busy machine.
const COMMAND: Duration = Duration::from_secs(5);

/// Small, since an fsync after an outage waits for all that was written in it: nine volumes make 6,000 files each in ten
/// minutes, and send them through debug builds on the cores of one machine.
fn data(n: usize) -> Vec<u8> {
    (0..2_000 + n % 200 * 97).map(|i| (i * 31 + n * 7) as u8).collect()
}

/// What a writer was told, and when.
struct Told {
    at: Instant,
    name: String,
    number: usize,
    result: Result<(), std::io::Error>,
}

/// Makes file after file, each synced or none.
fn writer(folder: PathBuf, prefix: &'static str, synced: bool) -> Writer<Told> {
    Writer::start(Duration::from_millis(100), move |number| {
        let name = format!("{prefix}{number}");
        let path = folder.join(&name);
        let result = if synced { write_and_sync(&path, &data(number)) } else { std::fs::write(&path, data(number)) };
        Some(Told { at: Instant::now(), name, number, result })
    })
}

/// One outage: when it began and ended, and what was measured in it.
struct Outage {
    seconds: u64,
    began: Instant,
    ended: Instant,
    looks: u64,
    slowest_look: Duration,
    slowest_read: Duration,
    slowest_command: Duration,
    healed: Duration,
}

fn outage(cloud: &Cloud, what: &str, faults: &Faults, seconds: u64) -> Outage {
    let (mut looks, mut slowest_look, mut slowest_read, mut slowest_command) = (0, Duration::ZERO, Duration::ZERO, Duration::ZERO);
    let mut next_command = Instant::now();
    cloud.proxy.set(faults.clone());
    let began = Instant::now();
    let end = began + Duration::from_secs(seconds);
    while Instant::now() < end {
        slowest_look = slowest_look.max(nobody_waits_who_needs_nothing(cloud, what));
        let read = Instant::now();
        assert_eq!(std::fs::read(cloud.path("before")).expect("cached"), b"before", "{what}");
        slowest_read = slowest_read.max(read.elapsed());
        looks += 1;
        if Instant::now() >= next_command {
            for words in [["status"].as_slice(), &["volume", "list"], &["volume", "inspect", "db"]] {
                let asked = Instant::now();
                cloud.world.run(words).ok();
                slowest_command = slowest_command.max(asked.elapsed());
                assert!(asked.elapsed() < COMMAND, "{what}: orlop {} took {:?}", words.join(" "), asked.elapsed());
            }
            next_command = Instant::now() + Duration::from_secs(30);
        }
        std::thread::sleep(Duration::from_millis(250).min(end.saturating_duration_since(Instant::now())));
    }
    assert!(slowest_read < Duration::from_secs(1), "{what}: reading what is here took {slowest_read:?}");
    if seconds >= 60 {
        // Whoever waits can be killed, and nobody is kept waiting by his leaving.
        let mut waiting = fsyncing(cloud.path("killed"));
        std::thread::sleep(Duration::from_secs(1));
        let kill = Instant::now();
        let _ = waiting.kill();
        waiting.wait().expect("ends");
        assert!(kill.elapsed() < Duration::from_secs(2), "{what}: kill -9 took {:?}", kill.elapsed());
    }
    let ended = Instant::now();
    cloud.proxy.heal();
    loop {
        match write_and_sync(&cloud.path("healed"), b"healed") {
            Ok(()) => break,
            Err(e) => assert!(ended.elapsed() < HEALED, "{what} for {seconds} s does not heal: {e}"),
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let healed = ended.elapsed();
    assert!(healed < HEALED, "{what} for {seconds} s healed after {healed:?}");
    // The other writers find that out too before the next one.
    std::thread::sleep(Duration::from_secs(3));
    Outage { seconds, began, ended, looks, slowest_look, slowest_read, slowest_command, healed }
}

/// What the writers were told in an outage is what the policy says, to the second.
fn as_the_policy_says(policy: &str, what: &str, outage: &Outage, synced: &[Told], accepted: &[Told]) -> String {
    // Until the store surely answers all of them again.
    let until = outage.ended + outage.healed + Duration::from_millis(500);
    let of = |all: &'_ [Told]| -> (usize, Vec<(Duration, Option<i32>)>) {
        let told: Vec<_> = all.iter().filter(|t| t.at > outage.began && t.at < until).collect();
        let failed = told.iter().filter_map(|t| t.result.as_ref().err().map(|e| (t.at - outage.began, e.raw_os_error())));
        (told.iter().filter(|t| t.result.is_ok()).count(), failed.collect())
    };
    let ((syncs, sync_errors), (writes, write_errors)) = (of(synced), of(accepted));
    let long = outage.seconds >= 60;
    match policy {
        "wait" => assert!(sync_errors.is_empty() && write_errors.is_empty(), "{what}: {sync_errors:?} {write_errors:?}"),
        _ if !long => assert!(sync_errors.is_empty() && write_errors.is_empty(), "{what}: {sync_errors:?} {write_errors:?}"),
        _ => {
            let (first, code) = *sync_errors.first().unwrap_or_else(|| panic!("{what}: an fsync never failed"));
            assert!(DEADLINE.contains(&first), "{what}: the first fsync failed after {first:?}");
            assert_eq!(code, Some(nix::libc::EIO), "{what}: {sync_errors:?}");
        }
    }
    match policy {
        // Changes wait here for the store, of which there are far from 4 GiB.
        "fail" => assert!(write_errors.is_empty(), "{what}: {write_errors:?}"),
        "readonly" if long => {
            let (first, _) = *write_errors.first().unwrap_or_else(|| panic!("{what}: it never became read-only"));
            assert!(DEADLINE.contains(&first), "{what}: read-only after {first:?}");
            let other: Vec<_> = write_errors.iter().filter(|(_, code)| *code != Some(nix::libc::EROFS)).collect();
            assert!(other.is_empty(), "{what}: {other:?}");
        }
        _ => {}
    }
    let first = |errors: &[(Duration, Option<i32>)]| match errors.first() {
        None => "none".to_owned(),
        Some((after, code)) => {
            let name = code.map_or_else(String::new, |c| nix::errno::Errno::from_raw(c).to_string());
            format!("{} from {:.1} s on, {name}", errors.len(), after.as_secs_f64())
        }
    };
    format!(
        "outage: {what}, {} s: df+ls at most {:.0} ms in {} looks, cached read at most {:.0} ms, commands at most {:.0} ms; \
         fsyncs answered {syncs}, failed {}; writes accepted {writes}, refused {}; healed after {:.1} s",
        outage.seconds,
        outage.slowest_look.as_secs_f64() * 1000.0,
        outage.looks,
        outage.slowest_read.as_secs_f64() * 1000.0,
        outage.slowest_command.as_secs_f64() * 1000.0,
        first(&sync_errors),
        first(&write_errors),
        outage.healed.as_secs_f64(),
    )
}

fn all_outages(policy: &'static str, fault: &'static str, faults: &Faults) {
    let what = format!("{policy}, {fault}");
    let Some(cloud) = Cloud::new(&what, &[&format!("outage={policy}")]) else { return };
    write_and_sync(&cloud.path("before"), b"before").expect("synced");
    let folder = cloud.world.path("m");
    let (syncing, writing) = (writer(folder.clone(), "s", true), writer(folder, "w", false));
    std::thread::sleep(Duration::from_secs(2));
    let outages: Vec<_> = LENGTHS
        .iter()
        .map(|seconds| {
            let it = outage(&cloud, &what, faults, *seconds);
            println!("outage: {what}, {seconds} s: over, healed after {:.1} s", it.healed.as_secs_f64());
            it
        })
        .collect();
    let (synced, accepted) = (syncing.end(), writing.end());
    for it in &outages {
        println!("{}", as_the_policy_says(policy, &what, it, &synced, &accepted));
    }
    // Between the outages everybody is answered.
    assert!(synced.last().is_some_and(|t| t.result.is_ok()), "{what}: the last fsync failed");
    assert!(accepted.last().is_some_and(|t| t.result.is_ok()), "{what}: the last write failed");

    // An unmount waits no longer than it says, whatever the policy.
    cloud.proxy.set(faults.clone());
    if std::fs::write(cloud.path("unsent"), b"unsent").is_ok() {
        let began = Instant::now();
        let refused = cloud.world.run(&["unmount", "db"]);
        assert_ne!(refused.code, 0, "{what}: {}", refused.out);
        assert!(began.elapsed() < Duration::from_secs(45), "{what}: unmount took {:?}", began.elapsed());
        println!("outage: {what}: an unmount was refused after {:.1} s", began.elapsed().as_secs_f64());
    }
    cloud.proxy.heal();
    let end = Instant::now() + Duration::from_secs(90);
    while cloud.world.json(&["status"])["keeper"]["workers"].as_array().is_some_and(|w| !w.is_empty()) {
        assert!(Instant::now() < end, "{what}: nobody unmounts it");
        cloud.world.run(&["unmount", "db"]);
        std::thread::sleep(Duration::from_millis(500));
    }

    // Nothing that was acknowledged is lost: an fsync at all times, any write since the unmount made the store have it.
    let mut expected: Vec<(String, Vec<u8>)> = Vec::new();
    for told in synced.iter().chain(&accepted).filter(|t| t.result.is_ok()) {
        expected.push((told.name.clone(), data(told.number)));
    }
    assert!(expected.len() > 100, "{what}: only {} files", expected.len());
    cloud.on_another_host(&expected);
    println!("outage: {what}: {} acknowledged files are whole on another host", expected.len());
}

#[test]
fn each_policy_keeps_its_word_for_ten_minutes() {
    if !soak() {
        eprintln!("SKIPPED outages of ten minutes: set ORLOP_SOAK");
        return;
    }
    let mut all = Vec::new();
    for policy in ["wait", "fail", "readonly"] {
        for (fault, faults) in [("down", Faults::down()), ("hanging", Faults::only(Fault::Hang)), ("503", Faults::only(Fault::Status(503)))]
        {
            all.push((policy, fault, std::thread::spawn(move || all_outages(policy, fault, &faults))));
        }
    }
    let failed: Vec<_> = all.into_iter().filter_map(|(p, f, t)| t.join().is_err().then(|| format!("{p}, {f}"))).collect();
    assert!(failed.is_empty(), "see above: {failed:?}");
}
