//! Who is it? Methods of authentication; for now local files of password hashes only.

pub mod local;
