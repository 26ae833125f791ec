//! Ticket authorities over real sockets on loopback: our client against our server, against doubles that
//! misbehave, and our server against other clients.

mod choice;
mod client;
mod double;
mod health;
mod hostile;
mod server;
mod tls;
mod world;
