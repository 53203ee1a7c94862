//! What can be put around a store.
