//! `nibiru dev`: an HTTP front that speaks FastCGI to the gateway.
