//! A request as the packet that its worker gets, with the files of its bodies.

use std::os::fd::{AsFd, BorrowedFd};

use crate::fastcgi;
use crate::gateway::request::Request;
use crate::link::message::{RequestBody, Role, ToWorker};
use crate::proto::body::{Body, Place};

/// Encodes a request for the worker into `packet`. Returns the files of its bodies: the request's, then a Filter's data.
pub(super) fn encode<'a>(request: &'a Request, packet: &mut Vec<u8>) -> Vec<BorrowedFd<'a>> {
    packet.clear();
    let (body, file) = packed(&request.body);
    let (role, data_file) = match &request.data {
        Some(data) => {
            let (data, file) = packed(data);
            (Role::Filter { data }, file)
        }
        None if request.role == fastcgi::Role::Authorizer => (Role::Authorizer, None),
        None => (Role::Responder, None),
    };
    let request_id = request.request_id.as_bytes();
    let variables = request.variables.encoded();
    let takes_file = request.takes_file;
    ToWorker::Request { request_id, variables, body, role, takes_file }.encode(packet);
    file.into_iter().chain(data_file).collect()
}

/// The form of a body in the message to a worker, and its file's descriptor, if it has one.
fn packed(body: &Body) -> (RequestBody<'_>, Option<BorrowedFd<'_>>) {
    match body.place() {
        Place::Memory(bytes) => (RequestBody::Inline(bytes), None),
        Place::File(file) => (RequestBody::Spooled { length: body.len() }, Some(file.as_fd())),
    }
}
