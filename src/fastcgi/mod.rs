//! FastCGI 1.0, sans-I/O: bytes in, events out.
