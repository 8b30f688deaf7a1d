//! Queue, bus and announcements on a RabbitMQ that others use too.

use std::sync::Arc;

use queue::{AmqpSettings, RabbitMq, contract};

/// The RabbitMQ that the environment names.
fn url() -> String {
    std::env::var("NORA_TEST_AMQP_URL").unwrap_or_else(|_| {
        panic!("NORA_TEST_AMQP_URL is not set: run `make test`, or `make services` first")
    })
}

async fn connect() -> RabbitMq {
    RabbitMq::connect(&AmqpSettings::new(&url()), "nora-backup-tests")
        .await
        .expect("connect to RabbitMQ")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_queue_keeps_the_contract() {
    let rabbit = connect().await;
    contract::job_queue(Arc::new(rabbit.clone())).await;
    rabbit.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bus_keeps_the_contract() {
    let rabbit = connect().await;
    contract::event_bus(Arc::new(rabbit.clone())).await;
    rabbit.close().await;
}
