//! The kernel's side: what the FUSE protocol's first exchange says, mount(2) and umount(2), the mount tables.

pub(crate) mod abi;
pub(crate) mod asking;
pub(crate) mod backing;
pub(crate) mod holders;
pub(crate) mod init;
pub(crate) mod mount;
pub(crate) mod table;
