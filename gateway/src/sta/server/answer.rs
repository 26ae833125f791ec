//! What our ticket authority answers to one HTTP request.
//!
//! The security key is asked for first, so that without it nothing else can be learned. A ticket that is unknown,
//! used or expired is refused with status 200 and an STA error document, as it is the authority that says no; a
//! request that is none, or that cannot be served, has a status of its own with such a document.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use portcullis_core::answer::TicketAnswer;
use portcullis_core::deny::Deny;
use portcullis_core::ticket_store::{TicketData, TicketRefusal};
use portcullis_proto::host_port::HostPort;
use portcullis_proto::sta::{self, CONTENT_TYPE, ConnectionInfo, MESSAGE_MAX_BYTES, PATH, ResponseTicket};
use subtle::{Choice, ConstantTimeEq as _};
use zeroize::Zeroizing;

use super::count_refusal;
use crate::config::SecurityKey;
use crate::sta::StaError;
use crate::sta::authority::Authority;

/// From the end of the head to the end of the body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// What callers of a ticket authority connect with, for the inner document.
const PROTOCOL: &str = "ICA";

/// Answers requests.
#[derive(Debug)]
pub(super) struct Service {
    authority: Arc<Authority>,
    key: Option<Key>,
}

struct Key {
    header: HeaderName,
    values: Vec<Zeroizing<String>>,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("header", &self.header).finish_non_exhaustive()
    }
}

/// A request that gets no ticket and no data.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    /// For the metrics.
    deny: Deny,
    /// For the caller.
    words: String,
}

impl Refusal {
    fn new(status: StatusCode, deny: Deny, words: impl Into<String>) -> Self {
        Self { status, deny, words: words.into() }
    }
}

impl Service {
    pub(super) fn new(authority: Arc<Authority>, key: Option<&SecurityKey>) -> Result<Self, StaError> {
        Ok(Self { authority, key: key.map(Key::new).transpose()? })
    }

    /// Never fails: every request has an answer.
    pub(super) async fn answer(
        &self,
        source: IpAddr,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        Ok(match self.try_answer(source, request).await {
            Ok(document) => response(StatusCode::OK, document),
            Err(Refusal { status, deny, words }) => {
                count_refusal(deny);
                tracing::debug!(%source, status = status.as_u16(), %words, "request to the ticket authority refused");
                let mut response = response(status, sta::encode_error(&words));
                let headers = response.headers_mut();
                match status {
                    StatusCode::METHOD_NOT_ALLOWED => {
                        headers.insert(header::ALLOW, HeaderValue::from_static("POST"));
                    }
                    // The rest of the request is still to come, and is not waited for.
                    StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT => {
                        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
                    }
                    _ => {}
                }
                response
            }
        })
    }

    async fn try_answer(&self, source: IpAddr, request: Request<Incoming>) -> Result<String, Refusal> {
        let refuse = |status, deny, words: &str| Err(Refusal::new(status, deny, words));
        if !self.key.as_ref().is_none_or(|key| key.is_shown_by(&request)) {
            return refuse(StatusCode::FORBIDDEN, Deny::CredentialsWrong, "security key missing or wrong");
        }
        if !request.uri().path().eq_ignore_ascii_case(PATH) {
            return refuse(StatusCode::NOT_FOUND, Deny::UnsupportedCommand, "no such resource");
        }
        if request.method() != Method::POST {
            return refuse(
                StatusCode::METHOD_NOT_ALLOWED,
                Deny::UnsupportedCommand,
                "only POST is served here",
            );
        }
        if request.headers().get(header::CONTENT_ENCODING).is_some() {
            return refuse(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                Deny::Malformed,
                "content codings are not served here",
            );
        }
        let body = read_body(request.into_body()).await?;
        let request = sta::parse_request(&body).map_err(|malformed| {
            Refusal::new(StatusCode::BAD_REQUEST, Deny::Malformed, malformed.to_string())
        })?;
        match request {
            sta::Request::Ticket(request) => self.issue(source, request),
            sta::Request::Data(request) => Ok(self.redeem(source, &request)),
        }
    }

    fn issue(&self, source: IpAddr, request: sta::RequestTicket) -> Result<String, Refusal> {
        let issued = self.authority.issue(ticket_data(request.data), request.refreshable, None);
        let issued = issued.map_err(|refusal| {
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, Deny::Overloaded, refusal.to_string())
        })?;
        tracing::debug!(%source, refreshable = request.refreshable, "ticket issued");
        let version = issued.version();
        let ticket = issued.first().clone();
        Ok(ResponseTicket { authority: ticket.authority, ticket: ticket.secret, version }.encode())
    }

    fn redeem(&self, source: IpAddr, request: &sta::RequestData) -> String {
        match self.authority.redeem(&request.ticket) {
            TicketAnswer::Granted(data) => {
                tracing::debug!(%source, "ticket redeemed");
                sta::encode_response_data(&message_data(data))
            }
            TicketAnswer::Refused(refusal) => {
                tracing::debug!(%source, reason = refusal.label(), "ticket refused");
                sta::encode_error(&refusal.to_string())
            }
            // Our own store always answers; were that to change, no caller must take it for a grant.
            TicketAnswer::Unavailable(_) => sta::encode_error(&TicketRefusal::Unknown.to_string()),
        }
    }
}

async fn read_body(body: Incoming) -> Result<Bytes, Refusal> {
    let too_long = || {
        let words = format!("the request is longer than {MESSAGE_MAX_BYTES} bytes");
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, Deny::RequestTooLong, words)
    };
    let most = u64::try_from(MESSAGE_MAX_BYTES).unwrap_or(u64::MAX);
    if body.size_hint().lower() > most {
        return Err(too_long());
    }
    let collected = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, MESSAGE_MAX_BYTES).collect()).await;
    match collected {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_long()),
        Ok(Err(_)) => Err(Refusal::new(StatusCode::BAD_REQUEST, Deny::Malformed, "the request broke off")),
        Err(_elapsed) => {
            Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, Deny::SlowRequest, "the request came too slowly"))
        }
    }
}

fn response(status: StatusCode, document: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(document)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    // An answer may hold a ticket.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn ticket_data(data: sta::TicketData) -> TicketData {
    let connection = data.connection.unwrap_or_default();
    TicketData {
        ica: data.ica_address,
        cgp: data.cgp_address,
        user: connection.user_name,
        domain: connection.user_domain,
        application: connection.application_name,
    }
}

/// The data as a message; the inner document is made anew from what is kept of it.
fn message_data(data: TicketData) -> sta::TicketData {
    let connection = ConnectionInfo {
        server_address: data.ica.as_ref().or(data.cgp.as_ref()).map(HostPort::to_string),
        user_name: data.user,
        user_domain: data.domain,
        application_name: data.application,
        protocol: Some(PROTOCOL.to_owned()),
    };
    sta::TicketData {
        ica_address: data.ica,
        cgp_address: data.cgp,
        connection: Some(connection),
        ..sta::TicketData::default()
    }
}

impl Key {
    fn new(key: &SecurityKey) -> Result<Self, StaError> {
        let failed = |reason| StaError::SecurityKey { header: key.header.clone(), reason };
        let header = key.header.parse().map_err(|_| failed("this is no HTTP header name"))?;
        if key.values.is_empty() || key.values.iter().any(|value| value.is_empty()) {
            return Err(failed("there is no key"));
        }
        Ok(Self { header, values: key.values.clone() })
    }

    /// The header must stand there once. Every value is compared, whichever matches.
    fn is_shown_by(&self, request: &Request<Incoming>) -> bool {
        let mut shown = request.headers().get_all(&self.header).iter();
        let (Some(shown), None) = (shown.next(), shown.next()) else { return false };
        let compare =
            |matched: Choice, value: &Zeroizing<String>| matched | value.as_bytes().ct_eq(shown.as_bytes());
        self.values.iter().fold(Choice::from(0), compare).into()
    }
}
