//! The ring against sockets of the kernel it runs on. Where there is no io_uring these tests fail: it is what they test.

mod close;
mod model;
mod receive;
mod send;
mod wake;
mod world;
