//! An in-memory destination with seeded faults, for tests.
