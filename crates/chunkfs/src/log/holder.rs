//! The name under which a folder of this host holds a volume: a file in it. With a wrong byte it would be another host's, and
//! what this one acknowledged and did not send would be somebody else's to give up. So it stands there twice, checked.

use crate::host::{HostDisk, replace};
use std::io;
use std::path::Path;

/// Its file in the folder of the volume's state.
pub(crate) const HOLDER: &str = "holder";
const DAMAGED: &str = "holder.damaged";
const DIGITS: usize = 32;

/// What a folder calls itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) id: String,
    /// It had no name until now, or one that cannot be read any more.
    pub(crate) anew: bool,
}

fn check(id: &str) -> String {
    blake3::hash(id.as_bytes()).to_hex()[..16].to_owned()
}

fn text(id: &str) -> String {
    let line = format!("{id} {}\n", check(id));
    // With an empty line in between: one that has lost its end takes no other along.
    format!("{line}\n{line}")
}

/// The name in the bytes of such a file: of its two lines the first that is whole. Earlier versions wrote the bare name.
pub(crate) fn parse(bytes: &[u8]) -> Option<String> {
    let is_id = |id: &str| id.len() == DIGITS && id.bytes().all(|b| b.is_ascii_hexdigit());
    if let Ok(bare) = std::str::from_utf8(bytes)
        && is_id(bare.trim_ascii())
    {
        return Some(bare.trim_ascii().to_owned());
    }
    let mut lines = bytes.split(|b| *b == b'\n').filter_map(|line| std::str::from_utf8(line).ok()?.split_once(' '));
    lines.find(|(id, sum)| is_id(id) && *sum == check(id)).map(|(id, _)| id.to_owned())
}

/// The name of a folder; one that has none gets one, and a file with a damaged line is made whole.
pub(crate) fn holder(disk: &dyn HostDisk, state_dir: &Path) -> io::Result<Holder> {
    let path = state_dir.join(HOLDER);
    let mut known = None;
    if disk.list(state_dir)?.iter().any(|n| n == HOLDER) {
        let mut bytes = vec![0; 4096];
        let n = disk.open(&path)?.read_at(&mut bytes, 0)?;
        bytes.truncate(n);
        known = parse(&bytes);
        match &known {
            Some(id) if text(id).as_bytes() == bytes => return Ok(Holder { id: id.clone(), anew: false }),
            Some(_) => tracing::info!(path = %path.display(), "written anew: a line of it was damaged, or an earlier version wrote it"),
            None => {
                tracing::error!(path = %path.display(), "it cannot be read any more; set aside as {DAMAGED}");
                disk.rename(&path, &state_dir.join(DAMAGED))?;
            }
        }
    }
    let holder = Holder { anew: known.is_none(), id: known.unwrap_or_else(|| uuid::Uuid::new_v4().simple().to_string()) };
    replace(disk, state_dir, HOLDER, text(&holder.id).as_bytes())?;
    Ok(holder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::RealDisk;

    #[test]
    fn a_name_outlives_every_damaged_byte_and_the_earlier_form() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join(HOLDER);
        let made = holder(&RealDisk, dir.path()).expect("made");
        assert!(made.anew);
        let whole = std::fs::read(&path).expect("reads");
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[at] ^= 1 << bit;
                std::fs::write(&path, &bytes).expect("writes");
                let found = holder(&RealDisk, dir.path()).expect("found");
                assert_eq!(found, Holder { id: made.id.clone(), anew: false }, "byte {at}, bit {bit}");
                assert_eq!(std::fs::read(&path).expect("reads"), whole, "made whole");
            }
        }
        for earlier in [made.id.clone(), format!("{}\n", made.id)] {
            std::fs::write(&path, earlier).expect("writes");
            assert_eq!(holder(&RealDisk, dir.path()).expect("found"), Holder { id: made.id.clone(), anew: false });
        }
        for lost in ["", "x", &made.id[1..]] {
            std::fs::write(&path, lost).expect("writes");
            let other = holder(&RealDisk, dir.path()).expect("made");
            assert!(other.anew && other.id != made.id);
            assert_eq!(std::fs::read_to_string(dir.path().join(DAMAGED)).expect("kept"), lost);
        }
    }
}
