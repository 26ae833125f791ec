//! Whole conversations of the tunnel, without a socket.

#[cfg(test)]
mod bounds;
#[cfg(test)]
mod credentials;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod talk;
#[cfg(test)]
mod tickets;
#[cfg(test)]
mod ways;
