//! The worker: runs jobs; reads agents and brings them back
