//! The front doors over a real control, with hosts that only remember what they were asked.

mod denied;
mod document;
mod plugin;
mod rest;
mod world;
