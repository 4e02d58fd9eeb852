//! One complete request, as a worker hands it to the Lua state.

use super::body::Body;
use crate::cgi::Variables;

/// One complete request.
#[derive(Debug)]
pub struct Request<'a> {
    /// The request's number in the worker's life, which [`interrupt`](super::interrupt()) names.
    pub serial: u32,
    /// `nibiru.request_id`.
    pub id: &'a [u8],
    /// The CGI variables, checked by the gateway; copied into `environ` as they are.
    pub variables: &'a Variables,
    /// The bytes of `wsgi.input`.
    pub body: Body,
    /// The application's part in the request (FastCGI 1.0 §6).
    pub role: Role,
}

/// `nibiru.role`.
#[derive(Debug)]
pub enum Role {
    /// Answer the request.
    Responder,
    /// Say whether the request may go on.
    Authorizer,
    /// Answer the request with a changed version of some data.
    Filter {
        /// The bytes of `nibiru.filter_data`.
        data: Body,
    },
}
