//! Room for what a kernel takes before it asks.
//!
//! A kernel that gathers writes takes bytes and sends them later: that the disk is full would be told to whoever closes or
//! syncs, and few programs look. So on a disk that is nearly full it is made to ask before each write, and is refused while what
//! it may have taken still finds room. For that, bytes that it sends may use half of what no other data may, and a part that
//! nobody is promised is kept for them.

use crate::fs::FileSystem;
use crate::types::{FsError, FsResult};

impl FileSystem {
    /// Whether the host's disk is so full that whoever gathers writes has to ask for room: it has less than `taken`, the bytes that
    /// may have been taken already.
    pub fn is_scarce(&self, taken: u64) -> bool {
        let mut st = self.lock();
        // A disk that cannot be asked is not known to be full.
        st.look_at_times().is_ok() && st.host_free < st.floor() + st.written_since_look + 4 * st.gathered() + taken
    }

    /// Asks for room for bytes that will be sent later; what nothing refers to is given back before that is refused.
    pub async fn room_to_gather(&self) -> FsResult<()> {
        for again in [true, false] {
            let enough = {
                let mut st = self.lock();
                st.look()?;
                st.host_free >= st.floor() + st.gathered()
            };
            if enough {
                return Ok(());
            }
            if !again || !self.make_room().await {
                break;
            }
        }
        Err(FsError::NoSpace)
    }

    /// Bytes that a kernel may have taken and not sent.
    pub fn gathered_at_most(&self) -> u64 {
        let mut st = self.lock();
        // Of a disk that cannot be asked nothing is known: its writes will tell.
        let _ = st.look_at_times();
        st.gathered()
    }
}
