//! Starts the real services that the end-to-end tests need.
