//! The `portcullis` program: its help, its exit codes, what it prints, and what it says to gateways and daemons that
//! are played here.

#[cfg(test)]
mod connect;
#[cfg(test)]
mod daemon;
#[cfg(test)]
mod files;
#[cfg(test)]
mod gateway;
#[cfg(test)]
mod help;
#[cfg(test)]
mod program;
#[cfg(test)]
mod websocket;
