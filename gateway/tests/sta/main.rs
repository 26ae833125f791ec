//! The control plane over real sockets on loopback: our ticket client against our authority, against doubles
//! that misbehave, our authority against other clients, names, and the loop that answers the front threads.

// The attribute tells clippy that helpers here are tests too.
#[cfg(test)]
mod choice;
#[cfg(test)]
mod client;
#[cfg(test)]
mod control_plane;
#[cfg(test)]
mod dns;
#[cfg(test)]
mod double;
#[cfg(test)]
mod health;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod observed;
#[cfg(test)]
mod server;
#[cfg(test)]
mod tls;
#[cfg(test)]
mod world;
