//! Why a volume is mounted: who holds it, when the first comes, when the last goes, and who was forgotten.

mod attach;
mod detach;
mod stale;
