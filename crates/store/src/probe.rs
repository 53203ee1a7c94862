//! What a store can really do.
