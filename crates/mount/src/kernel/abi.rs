//! What keeper and worker share of the kernel's FUSE interface: headers, INIT and its answer, refusals, and notices.
//! Bytes in, bytes out, in the machine's byte order.
//!
//! Layouts are those of the kernel's public interface (`linux/fuse.h`, protocol 7.40). What a worker is asked and
//! answers is in `fuse::request` and `fuse::reply`.

/// Length of the header of every request.
pub(crate) const IN_HEADER: usize = 40;
/// Length of the header of every answer.
pub(crate) const OUT_HEADER: usize = 16;
/// Length of INIT's body and of the body of its answer, since protocol 7.23.
pub(crate) const INIT_BODY: usize = 64;
/// The protocol's major version.
pub(crate) const MAJOR: u32 = 7;
/// The newest minor version whose messages a worker knows.
pub(crate) const MINOR: u32 = 40;

const OP_INIT: u32 = 26;
const NOTIFY_INVAL_INODE: i32 = 2;
const NOTIFY_RESEND: i32 = 7;

/// Capabilities, as INIT carries them in two words.
pub(crate) mod flag {
    /// Several reads of one file at a time.
    pub(crate) const ASYNC_READ: u64 = 1;
    /// Writes of more than a page.
    pub(crate) const BIG_WRITES: u64 = 1 << 5;
    /// Attributes with directory entries.
    pub(crate) const DO_READDIRPLUS: u64 = 1 << 13;
    /// The same, where the kernel finds it useful.
    pub(crate) const READDIRPLUS_AUTO: u64 = 1 << 14;
    /// Direct I/O without waiting for each piece.
    pub(crate) const ASYNC_DIO: u64 = 1 << 15;
    /// Writes stay in the page cache and come later, large and in order; the kernel keeps size and times.
    pub(crate) const WRITEBACK_CACHE: u64 = 1 << 16;
    /// Files can be opened without a message.
    pub(crate) const NO_OPEN_SUPPORT: u64 = 1 << 17;
    /// Lookups and readings of one folder at a time.
    pub(crate) const PARALLEL_DIROPS: u64 = 1 << 18;
    /// Requests of more than 32 pages.
    pub(crate) const MAX_PAGES: u64 = 1 << 22;
    /// Targets of symbolic links stay in the page cache; they never change.
    pub(crate) const CACHE_SYMLINKS: u64 = 1 << 23;
    /// Folders can be opened without a message; their entries stay in the page cache.
    pub(crate) const NO_OPENDIR_SUPPORT: u64 = 1 << 24;
    /// The file system takes set-id bits off; without it the kernel asks for file capabilities before every write.
    pub(crate) const HANDLE_KILLPRIV_V2: u64 = 1 << 28;
    /// The second word of flags is valid.
    pub(crate) const INIT_EXT: u64 = 1 << 30;
    /// Unanswered requests can be asked for again (kernel 6.9).
    pub(crate) const HAS_RESEND: u64 = 1 << 39;
}

/// The bit that marks a request's number when it is sent again.
pub(crate) const RESENT: u64 = 1 << 63;

/// What INIT asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InitRequest {
    /// The request's number, for the answer.
    pub(crate) unique: u64,
    /// The kernel's protocol.
    pub(crate) major: u32,
    /// And its minor version.
    pub(crate) minor: u32,
    /// The most that the kernel reads ahead.
    pub(crate) max_readahead: u32,
    /// What the kernel can do.
    pub(crate) flags: u64,
}

/// What is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct InitReply {
    /// The protocol to speak.
    pub(crate) minor: u32,
    /// As much read-ahead.
    pub(crate) max_readahead: u32,
    /// The capabilities in use.
    pub(crate) flags: u64,
    /// Requests in the background at a time.
    pub(crate) max_background: u16,
    /// How many of them mean that the device is congested.
    pub(crate) congestion: u16,
    /// The longest write.
    pub(crate) max_write: u32,
    /// The longest request in pages.
    pub(crate) max_pages: u16,
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

impl InitRequest {
    /// Reads a request; `None` if it is not INIT, or not whole.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < IN_HEADER + 16 || u32_at(bytes, 4) != OP_INIT || u32_at(bytes, 0) as usize != bytes.len() {
            return None;
        }
        let body = &bytes[IN_HEADER..];
        let mut flags = u64::from(u32_at(body, 12));
        if flags & flag::INIT_EXT != 0 && body.len() >= 20 {
            flags |= u64::from(u32_at(body, 16)) << 32;
        }
        Some(InitRequest {
            unique: u64_at(bytes, 8),
            major: u32_at(body, 0),
            minor: u32_at(body, 4),
            max_readahead: u32_at(body, 8),
            flags,
        })
    }

    /// The request as the kernel would write it.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![0u8; IN_HEADER + INIT_BODY];
        let length = out.len() as u32;
        out[0..4].copy_from_slice(&length.to_ne_bytes());
        out[4..8].copy_from_slice(&OP_INIT.to_ne_bytes());
        out[8..16].copy_from_slice(&self.unique.to_ne_bytes());
        let body = &mut out[IN_HEADER..];
        body[0..4].copy_from_slice(&self.major.to_ne_bytes());
        body[4..8].copy_from_slice(&self.minor.to_ne_bytes());
        body[8..12].copy_from_slice(&self.max_readahead.to_ne_bytes());
        body[12..16].copy_from_slice(&(self.flags as u32).to_ne_bytes());
        body[16..20].copy_from_slice(&((self.flags >> 32) as u32).to_ne_bytes());
        out
    }
}

impl InitReply {
    /// The answer to request `unique`.
    pub(crate) fn encode(&self, unique: u64) -> Vec<u8> {
        let mut out = vec![0u8; OUT_HEADER + INIT_BODY];
        out[..OUT_HEADER].copy_from_slice(&out_header(OUT_HEADER + INIT_BODY, 0, unique));
        let body = &mut out[OUT_HEADER..];
        body[0..4].copy_from_slice(&MAJOR.to_ne_bytes());
        body[4..8].copy_from_slice(&self.minor.to_ne_bytes());
        body[8..12].copy_from_slice(&self.max_readahead.to_ne_bytes());
        body[12..16].copy_from_slice(&(self.flags as u32).to_ne_bytes());
        body[16..18].copy_from_slice(&self.max_background.to_ne_bytes());
        body[18..20].copy_from_slice(&self.congestion.to_ne_bytes());
        body[20..24].copy_from_slice(&self.max_write.to_ne_bytes());
        // Times are kept to the nanosecond.
        body[24..28].copy_from_slice(&1u32.to_ne_bytes());
        body[28..30].copy_from_slice(&self.max_pages.to_ne_bytes());
        body[32..36].copy_from_slice(&((self.flags >> 32) as u32).to_ne_bytes());
        out
    }
}

/// What begins every message to the kernel: its whole length, a negative errno or a notice's code, and the number of the request
/// that it answers, 0 for a notice.
pub(crate) fn out_header(length: usize, code: i32, unique: u64) -> [u8; OUT_HEADER] {
    let mut out = [0u8; OUT_HEADER];
    out[0..4].copy_from_slice(&(length as u32).to_ne_bytes());
    out[4..8].copy_from_slice(&code.to_ne_bytes());
    out[8..16].copy_from_slice(&unique.to_ne_bytes());
    out
}

/// An answer that is only an error.
pub(crate) fn error_reply(unique: u64, errno: i32) -> [u8; OUT_HEADER] {
    out_header(OUT_HEADER, -errno, unique)
}

fn notice(code: i32, body: &[u8]) -> Vec<u8> {
    [&out_header(OUT_HEADER + body.len(), code, 0), body].concat()
}

/// The notice that asks the kernel to queue again what a dead worker had read and not answered.
pub(crate) fn resend_notice() -> Vec<u8> {
    notice(NOTIFY_RESEND, &[])
}

/// The notice that has the kernel give up pages of a file.
pub(crate) fn invalidate_notice(ino: u64, offset: i64, length: i64) -> Vec<u8> {
    notice(NOTIFY_INVAL_INODE, &[ino.to_ne_bytes(), offset.to_ne_bytes(), length.to_ne_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn init_survives_the_round_trip() {
        let init = InitRequest { unique: 2, major: 7, minor: 44, max_readahead: 131_072, flags: flag::HAS_RESEND | flag::INIT_EXT | 1 };
        let bytes = init.encode();
        assert_eq!(bytes.len(), 104);
        assert_eq!(InitRequest::parse(&bytes), Some(init));
        assert_eq!(InitRequest::parse(&bytes[..50]), None);
        let mut other = bytes.clone();
        other[4] = 3;
        assert_eq!(InitRequest::parse(&other), None);
    }

    #[test]
    fn without_the_extension_the_second_word_is_not_read() {
        let init = InitRequest { unique: 2, major: 7, minor: 31, max_readahead: 0, flags: flag::ASYNC_READ };
        let mut bytes = init.encode();
        bytes[IN_HEADER + 16] = 0xff;
        assert_eq!(InitRequest::parse(&bytes).expect("whole").flags, flag::ASYNC_READ);
    }

    #[test]
    fn the_answer_has_its_fields_where_the_kernel_looks() {
        let reply = InitReply {
            minor: 40,
            max_readahead: 7,
            flags: flag::HAS_RESEND | flag::INIT_EXT,
            max_background: 64,
            congestion: 48,
            max_write: 1 << 20,
            max_pages: 256,
        };
        let bytes = reply.encode(9);
        assert_eq!(bytes.len(), 80);
        assert_eq!(u64_at(&bytes, 8), 9);
        assert_eq!(u32_at(&bytes, 16 + 12), 1 << 30);
        assert_eq!(u32_at(&bytes, 16 + 20), 1 << 20);
        assert_eq!(u32_at(&bytes, 16 + 32), 1 << 7);
        assert_eq!(&bytes[16 + 28..16 + 30], &256u16.to_ne_bytes());
    }
}
