//! RFC 1929, Username/Password Authentication for SOCKS V5.

use portcullis_proto::socks5::{
    Credentials, METHOD_USERNAME_PASSWORD, credentials_len, credentials_status, parse_credentials_status,
};

// RFC 1928 §3: "X'02' USERNAME/PASSWORD".
#[test]
fn the_method_is_2() {
    assert_eq!(METHOD_USERNAME_PASSWORD, 2);
}

// RFC 1929 §2: "The VER field contains the current version of the subnegotiation, which is X'01'."
#[test]
fn the_version_is_1_and_not_5() {
    assert!(Credentials::parse(b"\x01\x01u\x01p").is_ok());
    assert!(Credentials::parse(b"\x05\x01u\x01p").is_err());
    assert!(credentials_len(&[5]).is_err());
}

// RFC 1929 §2: "The ULEN field contains the length of the UNAME field that follows." "The PLEN field contains the
// length of the PASSWD field that follows." The figure allows 1 to 255 octets for each.
#[test]
fn names_and_passwords_have_the_lengths_before_them() {
    let credentials = Credentials::parse(b"\x01\x05alice\x06s\xC3\xA9sam").unwrap();
    assert_eq!(credentials.user, b"alice");
    assert_eq!(credentials.password.as_slice(), b"s\xC3\xA9sam");
    assert!(Credentials::parse(b"\x01\x00\x01p").is_err());
    assert!(Credentials::parse(b"\x01\x01u\x00").is_err());
    let longest = [&[1, 255][..], &[b'u'; 255], &[255], &[b'p'; 255]].concat();
    assert_eq!(credentials_len(&longest), Ok(Some(513)));
    assert_eq!(Credentials::parse(&longest).unwrap().encode().unwrap().as_slice(), longest);
}

// RFC 1929 §2: "A STATUS field of X'00' indicates success. If the server returns a `failure' (STATUS value other than
// X'00') status, it MUST close the connection."
#[test]
fn status_0_is_success_and_any_other_is_failure() {
    assert_eq!(credentials_status(true), [1, 0]);
    assert_ne!(credentials_status(false)[1], 0);
    for status in 0..=255 {
        assert_eq!(parse_credentials_status(&[1, status]), Ok(status == 0));
    }
}
