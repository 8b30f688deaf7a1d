//! The command line: a client, a whole service in one process, a demonstration
