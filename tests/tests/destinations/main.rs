//! Destinations added at run time, through the whole program: tried, used by agents, copied
//! to, and another default in the environment. Nothing secret comes out.

mod added;
mod copies;
mod default;
mod keys;
mod lost;
mod support;
mod tried;
