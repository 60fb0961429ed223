//! A user shows who they are, by SCRAM-SHA-256: the messages of Postgres around the exchange.
//!
//! Invariant: a name that nobody has, and a password that is wrong, take the same messages and end with the same error.

use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{Sink, SinkExt as _};
use operators::error::excerpt;
use pgwire::api::auth::{protocol_negotiation, save_startup_parameters_to_metadata};
use pgwire::api::{ClientInfo, METADATA_USER, PgWireConnectionState};
use pgwire::error::{ErrorInfo, PgWireError, PgWireResult};
use pgwire::messages::startup::Authentication;
use pgwire::messages::{PgWireBackendMessage, PgWireFrontendMessage};

use crate::readers::{Exchange, Reader, Users};

/// The one way in which we take a password.
const METHOD: &str = "SCRAM-SHA-256";

/// How far a client is.
pub struct Login {
    users: Arc<Users>,
    step: Mutex<Step>,
}

#[derive(Debug, Default)]
enum Step {
    /// Nothing has come, or all of it is over.
    #[default]
    None,
    /// This name was told.
    Named(String),
    /// The first message of the exchange has come, and who it is if it ends well.
    Begun(String, Box<Exchange>, Option<Reader>),
}

impl Login {
    /// As one of these users.
    pub fn new(users: Arc<Users>) -> Login {
        Login { users, step: Mutex::default() }
    }

    /// Takes a message; the reader once one has shown who they are.
    pub async fn take<C>(&self, client: &mut C, message: PgWireFrontendMessage) -> PgWireResult<Option<Reader>>
    where
        C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let step = std::mem::take(&mut *self.step());
        let (answer, next, reader) = match (message, step) {
            (PgWireFrontendMessage::Startup(startup), Step::None) => {
                protocol_negotiation(client, &startup).await?;
                save_startup_parameters_to_metadata(client, &startup);
                let name = client.metadata().get(METADATA_USER).cloned().ok_or(PgWireError::UserNameRequired)?;
                client.set_state(PgWireConnectionState::AuthenticationInProgress);
                (Authentication::SASL(vec![METHOD.to_owned()]), Step::Named(name), None)
            }
            (PgWireFrontendMessage::PasswordMessageFamily(message), Step::Named(name)) => {
                let first = message.into_sasl_initial_response()?;
                if first.auth_method != METHOD {
                    return Err(PgWireError::UnsupportedSASLAuthMethod(excerpt(&first.auth_method)));
                }
                let begun = self.users.begin(&name, first.data.as_deref().unwrap_or_default());
                let (exchange, reader) = begun.map_err(|why| malformed(why.0))?;
                let answer = exchange.first.clone().into();
                (Authentication::SASLContinue(answer), Step::Begun(name, Box::new(exchange), reader), None)
            }
            (PgWireFrontendMessage::PasswordMessageFamily(message), Step::Begun(name, exchange, reader)) => {
                let last = message.into_sasl_response()?;
                let known = exchange.finish(&last.data).map_err(|why| malformed(why.0))?;
                let (Some(last), Some(reader)) = (known, reader) else { return Err(wrong(&name)) };
                (Authentication::SASLFinal(last.into()), Step::None, Some(reader))
            }
            _ => return Err(malformed("message")),
        };
        client.send(PgWireBackendMessage::Authentication(answer)).await?;
        *self.step() = next;
        Ok(reader)
    }

    fn step(&self) -> std::sync::MutexGuard<'_, Step> {
        self.step.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wrong(name: &str) -> PgWireError {
    fatal("28P01", format!("password authentication failed for user \"{}\"", excerpt(name)))
}

fn malformed(part: &str) -> PgWireError {
    fatal("08P01", format!("the {part} of the {METHOD} exchange is not as it should be"))
}

fn fatal(code: &str, message: String) -> PgWireError {
    PgWireError::UserError(Box::new(ErrorInfo::new("FATAL".to_owned(), code.to_owned(), message)))
}
