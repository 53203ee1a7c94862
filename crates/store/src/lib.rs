//! URL to object store: capability probe, wrappers, and the behaviour suite that every backend passes.
