//! Whole-system tests: models, fault worlds, crash matrix. Nothing depends on it.
