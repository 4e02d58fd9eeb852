//! Conformance of the server side with FastCGI 1.0, by section of the specification.

mod ids;
mod management;
mod multiplexing;
mod pairs;
mod records;
mod requests;
mod roles;
mod streams;
