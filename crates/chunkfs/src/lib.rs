//! The Orlop file system on an object store: inodes, segments, journal, collection, check. No FUSE.
