//! What every backend owes.
