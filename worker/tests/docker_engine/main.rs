//! Containers as sources and targets, on a real Docker Engine.
//!
//! The engine is named by NORA_TEST_DOCKER_HOST, and has the image `nora-test-agent:latest`;
//! without it these tests fail. `make test` starts one.

mod hooks;
mod restore;
mod source;
mod support;
