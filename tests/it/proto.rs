//! Tests of the wire formats that need files.

mod fuzz_regression;
