//! One order, from the names to the certificate (RFC 8555 §7.4).

use instant_acme::{
    Account, AuthorizationStatus, ChallengeType, Error, Identifier, NewOrder, Order, OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use zeroize::Zeroizing;

use super::challenge::{Challenges, Proof};
use crate::config::{AcmeCertificate, AcmeChallenge, AcmeConfig};

/// The issuer looks from several places, and not at once.
const WAIT: RetryPolicy = RetryPolicy::new().timeout(std::time::Duration::from_mins(2));
const UNKNOWN_ACCOUNT: &str = "urn:ietf:params:acme:error:accountDoesNotExist";

/// Why there is no certificate.
#[derive(Debug)]
pub(super) enum Failure {
    /// The issuer does not know us any more.
    UnknownAccount,
    Other(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match &error {
            Error::Api(problem) if problem.r#type.as_deref() == Some(UNKNOWN_ACCOUNT) => Self::UnknownAccount,
            _ => Self::Other(error.to_string()),
        }
    }
}

/// Orders a certificate; it comes with its chain and its new key as PEM.
pub(super) async fn place(
    account: &Account,
    acme: &AcmeConfig,
    wanted: &AcmeCertificate,
    challenges: &Challenges,
) -> Result<Zeroizing<String>, Failure> {
    let names: Vec<Identifier> = wanted.names.iter().cloned().map(Identifier::Dns).collect();
    let mut order = account.new_order(&NewOrder::new(&names)).await?;
    let proofs = proofs(&mut order, acme.challenge).await?;
    // Answered until this goes out of scope.
    let _answering = challenges.answer(acme, &proofs).map_err(Failure::Other)?;
    say_ready(&mut order, acme.challenge).await?;
    if order.poll_ready(&WAIT).await? != OrderStatus::Ready {
        return Err(Failure::Other(why_not(&mut order).await));
    }
    let made = |error: rcgen::Error| Failure::Other(format!("the request cannot be made: {error}"));
    let key = KeyPair::generate().map_err(made)?;
    let mut params = CertificateParams::new(wanted.names.clone()).map_err(made)?;
    params.distinguished_name = DistinguishedName::new();
    let request = params.serialize_request(&key).map_err(made)?;
    order.finalize_csr(request.der()).await?;
    let chain = order.poll_certificate(&WAIT).await?;
    let private = Zeroizing::new(key.serialize_pem());
    Ok(Zeroizing::new(format!("{chain}\n{}", *private)))
}

fn kind(challenge: AcmeChallenge) -> ChallengeType {
    match challenge {
        AcmeChallenge::Http01 => ChallengeType::Http01,
        AcmeChallenge::TlsAlpn01 => ChallengeType::TlsAlpn01,
    }
}

/// What has to be shown for the names that are not proven yet.
async fn proofs(order: &mut Order, challenge: AcmeChallenge) -> Result<Vec<Proof>, Failure> {
    let mut proofs = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        match authorization.status {
            AuthorizationStatus::Valid => continue,
            AuthorizationStatus::Pending => {}
            status => return Err(Failure::Other(format!("a name cannot be proven: it is {status:?}"))),
        }
        let name = authorization.identifier().to_string();
        let offered = authorization.challenge(kind(challenge));
        let offered = offered.ok_or_else(|| {
            Failure::Other(format!("the issuer does not let {name} be proven by {}", challenge.as_str()))
        })?;
        let authorization = offered.key_authorization();
        proofs.push(Proof {
            name,
            token: offered.token.clone(),
            answer: authorization.as_str().to_owned(),
            digest: authorization.digest().as_ref().to_vec(),
        });
    }
    Ok(proofs)
}

async fn say_ready(order: &mut Order, challenge: AcmeChallenge) -> Result<(), Failure> {
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        if authorization.status == AuthorizationStatus::Pending
            && let Some(mut offered) = authorization.challenge(kind(challenge))
        {
            offered.set_ready().await?;
        }
    }
    Ok(())
}

/// What the issuer says of the names that it could not be convinced of.
async fn why_not(order: &mut Order) -> String {
    let mut told = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        if authorization.refresh().await.is_err() || authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        let name = authorization.identifier().to_string();
        let error = authorization.challenges.iter().find_map(|challenge| challenge.error.as_ref());
        told.push(error.map_or_else(|| format!("{name} was not proven"), |error| format!("{name}: {error}")));
    }
    if told.is_empty() { "the issuer refuses the order".to_owned() } else { told.join("; ") }
}
