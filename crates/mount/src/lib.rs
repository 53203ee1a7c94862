//! The host side: FUSE sessions, the mount keeper, bind mounts. The only crate with unsafe and mount(2).
