//! Desired state: registry, apply, reconcilers, audit journal.
