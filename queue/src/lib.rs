//! How work travels: job queue and event bus
