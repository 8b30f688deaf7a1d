//! The vault engine: what a backup is on disk, how it is written and read back
