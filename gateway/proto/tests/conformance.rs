//! Conformance: what a document demands of these formats, one test per clause, the clause quoted above it.
//!
//! Only the public interface is used. Demands on behaviour in time (when to close, what to wait for) are tested
//! where behaviour lives, in `core` and in the integration tests.

mod conformance {
    mod rfc1928;
    mod rfc1929;
    mod rfc6455_frames;
    mod rfc6455_handshake;
    mod rfc9110_connect;
    mod rfc9112_heads;
    mod sta_document;
}
