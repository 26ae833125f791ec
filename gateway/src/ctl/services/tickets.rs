//! Tickets that operators issue and redeem by hand.

use std::time::Duration;

use portcullis_core::answer::{TicketAnswer, Unavailable};
use portcullis_core::ticket_store::TicketData;
use portcullis_proto::host_port::HostPort;
use portcullis_proto::ticket::TicketString;

use super::{Outcome, Services};
use crate::config::ListenerConfig;
use crate::ctl::protocol::{ErrorCode, Failure, Issued, Redeemed, TicketOrder, TicketText};

impl Services {
    pub(super) fn issue(&self, order: TicketOrder) -> Outcome<Issued> {
        let authority = self.authority.as_ref().ok_or_else(no_authority)?;
        let config = self.config.load();
        let server = config.sta_server.as_ref().ok_or_else(no_authority)?;
        let life = order.life_seconds.map_or(server.ticket_life, Duration::from_secs);
        let address = |text: &str| {
            HostPort::parse(text).map_err(|error| Failure::bad_request(format!("{text}: {error}")))
        };
        let data = TicketData {
            ica: Some(address(&order.target)?),
            cgp: order.cgp.as_deref().map(address).transpose()?,
            user: order.user,
            domain: order.domain,
            application: order.application,
        };
        let ticket = authority
            .issue(data, order.refreshable, Some(life))
            .map_err(|refusal| Failure::new(ErrorCode::Refused, refusal.to_string()))?;
        Ok(Issued {
            ticket: TicketText::new(ticket.expose()),
            authority_id: authority.id().to_string(),
            refreshable: order.refreshable,
            life_seconds: life.min(portcullis_core::ticket_store::LIFE_MAX).as_secs(),
        })
    }

    /// Tries the tickets of a string in order, as a client's would be.
    pub(super) async fn redeem(&self, ticket: &TicketText) -> Outcome<Redeemed> {
        let ticket = TicketString::parse(ticket.expose())
            .map_err(|error| Failure::bad_request(format!("the ticket string is malformed: {error}")))?;
        let mut names: Vec<String> = self.config.load().stas.iter().map(|sta| sta.name.clone()).collect();
        names.push(ListenerConfig::LOCAL_STA.to_owned());
        let mut last = Failure::new(ErrorCode::Refused, "no ticket");
        for ticket in ticket.into_tickets() {
            match self.pool.redeem(&names, &ticket).await {
                TicketAnswer::Granted(data) => {
                    return Ok(Redeemed {
                        target: data.ica.map(|address| address.to_string()),
                        cgp: data.cgp.map(|address| address.to_string()),
                        user: data.user,
                        domain: data.domain,
                        application: data.application,
                    });
                }
                TicketAnswer::Refused(refusal) => {
                    last = Failure::new(ErrorCode::Refused, format!("{}: {refusal}", ticket.authority));
                }
                TicketAnswer::Unavailable(why) => {
                    let why = format!("{}: {}", ticket.authority, unavailable(why));
                    last = Failure::new(ErrorCode::Unavailable, why);
                }
            }
        }
        Err(last)
    }
}

fn unavailable(why: Unavailable) -> &'static str {
    match why {
        Unavailable::NoAuthority => "no ticket authority of that id is known",
        Unavailable::Down => "the ticket authority is down",
        Unavailable::Timeout => "the ticket authority did not answer in time",
        Unavailable::Garbage => "the ticket authority's answer is malformed",
        Unavailable::Overloaded => "too many requests are under way",
    }
}

fn no_authority() -> Failure {
    let text = "this gateway is no ticket authority; configure [sta_server], or ask your own STA";
    Failure::new(ErrorCode::Unavailable, text)
}
