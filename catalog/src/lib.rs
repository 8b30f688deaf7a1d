//! What we know: agents, backups, jobs, restores, and the transitions of their states
