//! Room for what a kernel takes before it asks.
//!
//! A kernel that gathers writes takes bytes and sends them later: that the disk is full would be told to whoever closes or
//! syncs, and few programs look. So it is held to a part of what is free, and where that comes to its least it is made to ask before each
//! write, and is refused while what it may have taken still finds room. For that, bytes that it sends may use half of what
//! no other data may, and a part that nobody is promised is kept for them.

use crate::fs::FileSystem;
use crate::state::{State, Step};
use crate::types::{Caller, FsError, FsResult};

/// What a kernel that gathers writes is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gathering {
    /// Bytes that it may have taken and not sent; no bound if there is more room than it ever takes.
    pub most: Option<u64>,
    /// Whether it has to ask before each write.
    pub asks: bool,
}

/// Of what is free and may be used, the part that a kernel may have.
const PART: u64 = 8;
/// How often room is made before there is none.
const ATTEMPTS: usize = 4;
/// What the record of a new name takes, about, beside the name.
const RECORD: usize = 512;
/// The most that it is held to.
const LARGEST: u64 = 2 << 30;

impl FileSystem {
    /// What a kernel is allowed that by itself would take up to `unbounded` bytes.
    pub fn gathering(&self, unbounded: u64) -> Gathering {
        let mut st = self.lock();
        // Of a disk that cannot be asked nothing is known: its writes will tell.
        if st.look_at_times().is_err() {
            return Gathering { most: None, asks: false };
        }
        let (kept, least) = (st.gathered(), st.gathered() / 4);
        let free = st.host_free.saturating_sub(st.kept() + kept + st.written_since_look + st.owed());
        // Twice: while it is told, it may go on taking.
        if free > unbounded.saturating_mul(2) {
            return Gathering { most: None, asks: false };
        }
        Gathering { most: Some((free / PART).clamp(least, LARGEST.max(least))), asks: free < PART * least }
    }

    /// Makes what takes room and is no data: a name, an attribute. Refused before the disk has no room left to remove them.
    pub(crate) async fn grow<T>(&self, cx: &Caller, bytes: usize, f: impl FnMut(&mut State) -> Step<T>) -> FsResult<T> {
        let bytes = (bytes + RECORD) as u64;
        let room = || {
            let mut st = self.lock();
            // What was done already, and is asked for again, is answered as it was.
            let again = cx.request != 0 && st.answers.contains_key(&cx.request);
            again || !matches!(st.room_for_names(bytes), Err(FsError::NoSpace))
        };
        let mut enough = room();
        if !enough && self.make_room(bytes).await {
            enough = room();
        }
        if enough { self.change(f).await } else { Err(FsError::NoSpace) }
    }

    /// Asks for room for bytes that will be sent later; what nothing refers to is given back before that is refused.
    pub async fn room_to_gather(&self) -> FsResult<()> {
        for _ in 0..ATTEMPTS {
            let (enough, wanted, folding) = {
                let mut st = self.lock();
                st.look()?;
                (st.host_free >= st.kept() + st.gathered() + st.owed(), st.gathered(), st.folding.is_some())
            };
            if enough {
                return Ok(());
            }
            // A fold under way may be giving it back.
            let made = self.make_room(wanted).await || (folding && self.fold_for_room().await.is_ok());
            if !made {
                break;
            }
        }
        Err(FsError::NoSpace)
    }
}
