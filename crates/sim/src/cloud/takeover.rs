//! A writer stands still, another host takes the volume and writes, and the first one goes on.

use super::cell::{Writer, checked, open, whole, write_on};
use super::scripts::Script;
use super::weather::{At, Plant};
use crate::crash::judge;
use crate::posix::Out;
use crate::posix::op::Op;
use crate::posix::run::{PATIENCE, STATE, fresh_world};
use crate::posix::tree::{Same, Tree};
use crate::world::Rule;
use std::path::Path;

/// Where the first writer stands still: before or after the n-th thing that it does to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pause {
    /// It was not done yet: it arrives late.
    Before(u64),
    /// It was done, and the answer arrives late.
    After(u64),
}

/// How many things a script does to the store before its first opening anew.
pub fn mutations_of(script: &Script, seed: u64) -> Result<u64, String> {
    let mut writer = Writer::new(fresh_world(seed), seed, None, None);
    writer.start(true)?;
    writer.play(script, 0)?;
    Ok(writer.weather.mutations())
}

/// Plays a takeover; the error says what promise was broken. Returns whether the pause was met.
pub fn take_over(script: &Script, pause: Pause, seed: u64, plant: Option<Plant>, rule: Option<Rule>) -> Result<bool, String> {
    let at = match pause {
        Pause::Before(n) => At::Before(n),
        Pause::After(n) => At::After(n),
    };
    let world = fresh_world(seed);
    world.bend(rule);
    let mut a = Writer::new(world, seed, plant, Some(at));
    // An opening that is paused is another story: it has answered nothing.
    if !a.start_unless_paused()? {
        return Ok(false);
    }
    let stopped = a.play(script, 0)?;
    a.collect();
    let Some(line) = stopped else { return Ok(false) };

    let other = a.world.beside(seed + 1).with_folder(Path::new(STATE));
    let mut b = open(&other, "b").map_err(|why| format!("the successor: {why}"))?;
    let found = whole(&mut b)?;
    let state = judge(&a.history, &found, true).map_err(|why| format!("the successor finds: {why}"))?;
    let written = write_on(&mut b)?;

    // The first one goes on where it stood, and does what it still has to do.
    a.weather.go_on();
    a.late(script, line, state)?;
    let after = sync_and_read(&mut b)?;
    if let Some(why) = written.difference(&after, &mut Same::default()) {
        return Err(format!("what the successor wrote was harmed: {why}"));
    }
    checked(&mut b)?;
    match b.run(async |real| tokio::time::timeout(PATIENCE, real.fs.close()).await) {
        Ok(Ok(())) => b.end(),
        other => return Err(format!("the successor does not close: {other:?}")),
    }

    // Its host comes back.
    a.gone();
    a.world.kill();
    let mut back = open(&a.world, "a").map_err(|why| format!("back on the first host: {why}"))?;
    let there = whole(&mut back)?;
    if let Some(why) = after.difference(&there, &mut Same::default()) {
        return Err(format!("back on the first host: {why}"));
    }
    checked(&mut back)?;
    back.end();
    Ok(true)
}

fn sync_and_read(life: &mut crate::posix::run::Life) -> Result<Tree, String> {
    match life.run(async |real| tokio::time::timeout(PATIENCE, real.fs.sync_all()).await) {
        Ok(Ok(())) => whole(life),
        other => Err(format!("the successor cannot sync any more: {other:?}")),
    }
}

impl Writer {
    fn start_unless_paused(&mut self) -> Result<bool, String> {
        match self.start(true) {
            // Standing still, it does not open in any time.
            Err(_) if self.weather.is_paused() => Ok(false),
            other => other,
        }
    }

    /// What it is answered now may only be what its successor has too.
    fn late(&mut self, script: &Script, line: usize, state: usize) -> Result<(), String> {
        let life = self.life.as_mut().expect("it was only paused");
        // What was under way comes to its end.
        life.run(async |_| tokio::time::sleep(std::time::Duration::from_secs(5)).await);
        if let Some(n) = self.collect().filter(|n| *n > state) {
            return Err(format!("an fsync of state {n} is answered, and the successor has {state}"));
        }
        let made = script.lines.len() - line;
        let life = self.life.as_mut().expect("it was only paused");
        for i in 0..made.min(3) as u8 {
            let op = Op::Make { at: vec![20 + i], kind: orlop_chunkfs::FileKind::File, perm: 0o600 };
            let made = life.run(async |real| tokio::time::timeout(PATIENCE, real.apply(&op)).await.ok());
            let accepted = made.as_ref().is_some_and(|out| !matches!(out, Out::Errno(_)));
            let synced = life.run(async |real| tokio::time::timeout(PATIENCE, real.fs.sync_all()).await);
            // With nothing left to send an fsync may say so: its successor has all of it.
            let owed = accepted || self.history.acknowledged > state;
            if matches!(synced, Ok(Ok(()))) && owed {
                return Err(format!("the first one answers an fsync of what its successor does not have (then {made:?})"));
            }
        }
        Ok(())
    }

    fn gone(&mut self) {
        if let Some(life) = self.life.take() {
            life.end();
        }
    }
}
