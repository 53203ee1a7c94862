//! The one binary `orlop`.
fn main() {}
