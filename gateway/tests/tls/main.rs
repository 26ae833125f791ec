//! Certificates: each fault gets its finding, and real rustls clients get the certificate of the name they ask for.

#[cfg(test)]
mod connections;
#[cfg(test)]
mod findings;
#[cfg(test)]
mod handshakes;
#[cfg(test)]
mod pki;
