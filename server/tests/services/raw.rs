//! Any rpc of the contract, called by its name with a request in JSON: what tests of all rpcs need.

use bytes::{Buf as _, BufMut as _, Bytes};
use futures::StreamExt as _;
use http::uri::PathAndQuery;
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor};
use tonic::{
    Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::Channel,
};

/// All rpcs, as "Service/Method".
pub fn rpcs() -> Vec<(String, MethodDescriptor)> {
    let pool = DescriptorPool::decode(proto::DESCRIPTORS).unwrap();
    let mut all = Vec::new();
    for service in pool.services() {
        for method in service.methods() {
            all.push((format!("{}/{}", service.name(), method.name()), method));
        }
    }
    all
}

/// How a call is made.
pub struct Call<'a> {
    pub method: &'a MethodDescriptor,
    pub request: &'a str,
    pub token: Option<&'a str>,
    /// The caller's name for the call.
    pub name: &'a str,
}

/// Calls an rpc; the first message of its answer, or how it was refused. The rest of a stream is
/// read when it is one that ends.
pub async fn call(channel: Channel, call: Call<'_>) -> Result<DynamicMessage, Status> {
    let mut json = serde_json::Deserializer::from_str(call.request);
    let message = DynamicMessage::deserialize(call.method.input(), &mut json)
        .unwrap_or_else(|error| panic!("{}: {error}", call.request));
    let mut request = Request::new(Bytes::from(message.encode_to_vec()));
    let metadata = request.metadata_mut();
    if let Some(token) = call.token {
        let bearer = format!("Bearer {token}");
        metadata.insert("authorization", bearer.parse().unwrap());
    }
    metadata.insert("x-request-id", call.name.parse().unwrap());
    let service = call.method.parent_service().full_name();
    let path = format!("/{service}/{}", call.method.name());
    let path = PathAndQuery::try_from(path).unwrap();
    let mut client = Grpc::new(channel);
    client.ready().await.unwrap();
    let answer = client.server_streaming(request, path, Raw).await?;
    let mut stream = answer.into_inner();
    let first = stream.next().await;
    let first = first.unwrap_or_else(|| Err(Status::unknown("it ended without a message")))?;
    if call.method.name().starts_with("Download") {
        while let Some(more) = stream.next().await {
            more?;
        }
    }
    Ok(DynamicMessage::decode(call.method.output(), first).unwrap())
}

/// Messages as the bytes they are.
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let length = buffer.remaining();
        Ok(Some(buffer.copy_to_bytes(length)))
    }
}
