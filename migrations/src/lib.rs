//! The catalog's database schema, one file a change
