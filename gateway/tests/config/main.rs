//! The configuration file: what is refused, where, and with what advice; what is filled in; what a reload changes.

#[cfg(test)]
mod bans;
#[cfg(test)]
mod base;
#[cfg(test)]
mod certificates;
#[cfg(test)]
mod check;
#[cfg(test)]
mod files;
#[cfg(test)]
mod forward;
#[cfg(test)]
mod high_availability;
#[cfg(test)]
mod kernel;
#[cfg(test)]
mod meaning;
#[cfg(test)]
mod metrics;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod reload;
#[cfg(test)]
mod server_tls;
