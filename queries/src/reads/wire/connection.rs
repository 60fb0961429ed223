//! One client from its first byte to its last.
//!
//! Invariant: a client that says nothing, or nothing that can be understood, is told so and left.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use pgwire::api::cancel::DefaultCancelHandler;
use pgwire::api::{ClientInfo as _, ConnectionManager, DefaultClient, NoopHandler, PgWireConnectionState};
use pgwire::error::{ErrorInfo, PgWireError};
use pgwire::messages::response::{GssEncResponse, SslResponse};
use pgwire::messages::{PgWireBackendMessage, PgWireFrontendMessage, SslNegotiationMetaMessage};
use pgwire::tokio::server::{PgWireMessageServerCodec, process_error, process_message};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_util::codec::Framed;

use super::Options;
use super::handlers::{Handlers, Prepared};
use super::limited::Limited;
use super::startup::Startup;
use crate::readers::Users;
use crate::reads::Reads;

/// Who comes, and what for.
pub struct Guest {
    pub reads: Arc<Reads>,
    pub users: Arc<Users>,
    pub manager: Arc<ConnectionManager>,
    pub options: Arc<Options>,
    pub peer: SocketAddr,
    /// Whether there is a place for it; it is told so if there is none.
    pub admitted: bool,
}

type Client = Framed<Limited<TcpStream>, PgWireMessageServerCodec<Prepared>>;

/// Serves it; why we left it, if we did.
pub async fn serve(socket: TcpStream, guest: Guest) -> Option<&'static str> {
    let Guest { reads, users, manager, options, peer, admitted } = guest;
    // Without it answers only come later.
    let _ = socket.set_nodelay(true);
    let limited = Limited::new(socket, Duration::from_millis(options.stall_ms_max));
    let mut client: Client = Framed::new(limited, PgWireMessageServerCodec::new(DefaultClient::new(peer, false)));
    let startup = Arc::new(Startup::new(&options, reads, users, manager.clone(), admitted));
    let handlers = Arc::new(Handlers::new(startup.seen()));
    let cancel = Arc::new(DefaultCancelHandler::new(manager));
    let copy = Arc::new(NoopHandler);
    let known_by = Instant::now() + Duration::from_millis(options.startup_ms_max);
    loop {
        let starting = is_starting(&client);
        let until = if starting { known_by } else { Instant::now() + Duration::from_millis(options.idle_ms_max) };
        let message = match timeout_at(until, client.next()).await {
            Ok(Some(Ok(message))) => message,
            Ok(None) => return None,
            Ok(Some(Err(why))) => return Some(leave(&mut client, &why).await),
            Err(_) => {
                let why = ("57P05", "no message came for too long; the connection is closed");
                tell(&mut client, why.0, why.1.to_owned()).await;
                return Some("idle");
            }
        };
        let extended = message.is_extended_query();
        let cancels = matches!(message, PgWireFrontendMessage::CancelRequest(_));
        let done = match message {
            PgWireFrontendMessage::Terminate(_) => return None,
            PgWireFrontendMessage::SslNegotiation(asked) => negotiate(&mut client, &asked).await,
            message => {
                let (all, client) = (handlers.clone(), &mut client);
                process_message(message, client, startup.clone(), all.clone(), all, copy.clone(), cancel.clone()).await
            }
        };
        let Err(why) = done else {
            if cancels {
                return None;
            }
            continue;
        };
        if let PgWireError::IoError(why) = &why {
            return Some(if why.kind() == std::io::ErrorKind::TimedOut { "stalled" } else { "broken" });
        }
        let why: ErrorInfo = why.into();
        let fatal = why.is_fatal() || is_starting(&client);
        if process_error(&mut client, PgWireError::UserError(Box::new(why)), extended).await.is_err() || fatal {
            return Some(if admitted { "broken" } else { "limit" });
        }
    }
}

fn is_starting(client: &Client) -> bool {
    use PgWireConnectionState::{AuthenticationInProgress, AwaitingSslRequest, AwaitingStartup};
    matches!(client.state(), AwaitingSslRequest | AwaitingStartup | AuthenticationInProgress)
}

/// There is no encryption here; a client that can do without goes on.
async fn negotiate(client: &mut Client, asked: &SslNegotiationMetaMessage) -> Result<(), PgWireError> {
    match asked {
        SslNegotiationMetaMessage::PostgresSsl(_) => {
            client.send(PgWireBackendMessage::SslResponse(SslResponse::Refuse)).await?;
        }
        SslNegotiationMetaMessage::PostgresGss(_) => {
            client.send(PgWireBackendMessage::GssEncResponse(GssEncResponse::Refuse)).await?;
        }
        SslNegotiationMetaMessage::None => client.set_state(PgWireConnectionState::AwaitingStartup),
    }
    Ok(())
}

/// Leaves a client that cannot be understood.
async fn leave(client: &mut Client, why: &PgWireError) -> &'static str {
    match why {
        PgWireError::IoError(why) if why.kind() == std::io::ErrorKind::InvalidData => {
            tell(client, "08P01", why.to_string()).await;
        }
        PgWireError::IoError(_) => {}
        why => tell(client, "08P01", format!("not the Postgres protocol: {why}")).await,
    }
    "broken"
}

async fn tell(client: &mut Client, code: &str, message: String) {
    let info = ErrorInfo::new("FATAL".to_owned(), code.to_owned(), message);
    // Who is gone cannot be told.
    let _ = client.send(PgWireBackendMessage::ErrorResponse(info.into())).await;
    let _ = client.close().await;
}
