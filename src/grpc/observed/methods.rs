//! What is told of each RPC's calls: its name and the attributes of the histogram, made once for every code.

use std::sync::Arc;

use opentelemetry::KeyValue;
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic::Code;

use crate::grpc::{proto, status};

/// The next release of the conventions renames it.
pub(super) const STATUS_CODE: &str = "rpc.response.status_code";
/// What an RPC is called that is none of ours: anyone can ask for any path.
pub(super) const OTHER: &str = "_OTHER";
/// All codes, in the order of their numbers.
const CODES: std::ops::RangeInclusive<i32> = 0..=16;

/// What is told of the calls of one RPC, made once.
pub(super) struct Method {
    pub(super) name: Arc<str>,
    /// The attributes of the histogram, by code.
    pub(super) attributes: Vec<Vec<KeyValue>>,
}

impl Method {
    pub(super) fn new(name: &str) -> Self {
        let name: Arc<str> = name.into();
        let of = |code: i32| {
            let code = Code::from_i32(code);
            let mut attributes = Self::named(&name);
            attributes.push(KeyValue::new(STATUS_CODE, status::code_name(code)));
            if is_error(code) {
                attributes.push(KeyValue::new("error.type", status::code_name(code)));
            }
            attributes
        };
        Self { attributes: CODES.map(of).collect(), name }
    }

    pub(super) fn named(name: &Arc<str>) -> Vec<KeyValue> {
        vec![KeyValue::new("rpc.system.name", "grpc"), KeyValue::new("rpc.method", Arc::clone(name))]
    }
}

/// The full names of all RPCs that this server knows, from their descriptors.
pub(super) fn known_methods() -> impl Iterator<Item = String> {
    let sets = [
        proto::DESCRIPTORS,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ];
    let files = sets.into_iter().filter_map(|set| FileDescriptorSet::decode(set).ok()).flat_map(|set| set.file);
    files.flat_map(|file| {
        let package = file.package().to_owned();
        file.service.into_iter().flat_map(move |service| {
            let service_name = format!("{package}.{}", service.name());
            service.method.into_iter().map(move |method| format!("{service_name}/{}", method.name()))
        })
    })
}

/// Which codes say that the server failed; the others are the answer to a caller's mistake.
pub(super) fn is_error(code: Code) -> bool {
    use Code::{DataLoss, DeadlineExceeded, Internal, Unavailable, Unimplemented, Unknown};
    matches!(code, Unknown | DeadlineExceeded | Unimplemented | Internal | Unavailable | DataLoss)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rpc_of_this_server_is_known_by_name() {
        let names: Vec<String> = known_methods().collect();
        for name in [
            "claviger.v1.ApiKeyService/Validate",
            "grpc.health.v1.Health/Watch",
            "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        ] {
            assert!(names.iter().any(|known| known == name), "{name} is missing in {names:?}");
        }
    }

    #[test]
    fn there_are_attributes_for_every_code() {
        let method = Method::new("a.B/C");
        for code in CODES.map(Code::from_i32) {
            let told = method.attributes[code as usize].iter().find(|told| told.key.as_str() == STATUS_CODE).unwrap();
            assert_eq!(told.value.as_str(), status::code_name(code));
        }
    }
}
