//! Who comes: nobody without a place, nobody who is no user if there are users, nobody without the password if there is one.
//!
//! Invariant: what a connection reads is what its user sees; until that one is known there is nothing to read.

use std::fmt::Debug;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::{Arc, LazyLock, OnceLock};

use async_trait::async_trait;
use futures_util::Sink;
use operators::connection::Secret;
use pgwire::api::auth::md5pass::{Md5PasswordAuthStartupHandler, hash_md5_password};
use pgwire::api::auth::{
    AuthSource, DefaultServerParameterProvider, LoginInfo, Password, StartupHandler, finish_authentication,
    protocol_negotiation, save_startup_parameters_to_metadata,
};
use pgwire::api::{
    ClientInfo, ConnectionGuard, ConnectionHandle, ConnectionManager, PidSecretKeyGenerator,
    RandomPidSecretKeyGenerator,
};
use pgwire::error::{ErrorInfo, PgWireError, PgWireResult};
use pgwire::messages::{PgWireBackendMessage, PgWireFrontendMessage};

use super::login::Login;
use super::{Options, POSTGRES};
use crate::readers::Users;
use crate::reads::Reads;

/// The beginning of one connection.
pub struct Startup {
    admitted: bool,
    connections_max: usize,
    manager: Arc<ConnectionManager>,
    parameters: Arc<DefaultServerParameterProvider>,
    reads: Arc<Reads>,
    seen: Seen,
    /// None if there are no users.
    login: Option<Login>,
    /// None if no password is asked for where there are no users.
    password: Option<Md5PasswordAuthStartupHandler<OnePassword, DefaultServerParameterProvider>>,
}

/// What a connection reads, once it is known who it is.
pub type Seen = Arc<OnceLock<Arc<Reads>>>;

/// Numbers of connections, of the whole process, so that no two are alike.
static NUMBERS: LazyLock<Arc<RandomPidSecretKeyGenerator>> = LazyLock::new(Arc::default);

impl Startup {
    /// Of a connection for which there is a place, or none.
    pub fn new(
        options: &Options,
        reads: Arc<Reads>,
        users: Arc<Users>,
        manager: Arc<ConnectionManager>,
        admitted: bool,
    ) -> Startup {
        let mut parameters = DefaultServerParameterProvider::default();
        parameters.server_version = format!("{POSTGRES} (Haulstream {})", env!("CARGO_PKG_VERSION"));
        parameters.search_path = "public, haulstream".to_owned();
        parameters.is_superuser = false;
        parameters.default_transaction_read_only = true;
        let parameters = Arc::new(parameters);
        let password = (!options.password.is_empty()).then(|| {
            let source = Arc::new(OnePassword(options.password.clone()));
            Md5PasswordAuthStartupHandler::new(source, parameters.clone())
                .with_pid_secret_key_generator(NUMBERS.clone())
                .with_connection_manager(manager.clone())
        });
        let (login, seen) = ((!users.is_empty()).then(|| Login::new(users)), Seen::default());
        if login.is_none() {
            // Before the password is told no question is heard either.
            let _ = seen.set(reads.clone());
        }
        Startup {
            admitted,
            connections_max: options.connections_max,
            manager,
            parameters,
            reads,
            seen,
            login,
            password,
        }
    }

    /// What the connection reads, once it is known who it is.
    pub fn seen(&self) -> Seen {
        self.seen.clone()
    }

    /// Lets the client in.
    async fn open<C>(&self, client: &mut C) -> PgWireResult<()>
    where
        C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let (number, key) = NUMBERS.generate(client);
        client.set_pid_and_secret_key(number, key.clone());
        let (handle, guard) = self.manager.register(number, key);
        client.session_extensions().insert::<Arc<ConnectionHandle>>(handle);
        client.session_extensions().insert::<ConnectionGuard>(guard);
        finish_authentication(client, self.parameters.as_ref()).await
    }
}

#[async_trait]
impl StartupHandler for Startup {
    async fn on_startup<C>(&self, client: &mut C, message: PgWireFrontendMessage) -> PgWireResult<()>
    where
        C: ClientInfo + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        if !self.admitted {
            let message = format!("all {} connections are taken", self.connections_max);
            let mut why = ErrorInfo::new("FATAL".to_owned(), "53300".to_owned(), message);
            why.hint = Some("close some, or raise reads.connections_max".to_owned());
            return Err(PgWireError::UserError(Box::new(why)));
        }
        if let Some(login) = &self.login {
            if let Some(reader) = login.take(client, message).await? {
                let _ = self.seen.set(Arc::new(self.reads.seen_by(&reader)));
                self.open(client).await?;
            }
            return Ok(());
        }
        if let Some(password) = &self.password {
            return password.on_startup(client, message).await;
        }
        if let PgWireFrontendMessage::Startup(startup) = &message {
            protocol_negotiation(client, startup).await?;
            save_startup_parameters_to_metadata(client, startup);
            self.open(client).await?;
        }
        Ok(())
    }
}

/// The same password for everybody.
#[derive(Debug)]
struct OnePassword(Secret);

#[async_trait]
impl AuthSource for OnePassword {
    async fn get_password(&self, login: &LoginInfo) -> PgWireResult<Password> {
        let user = login.user().ok_or(PgWireError::UserNameRequired)?;
        // Each new state has keys of its own, which come from the system's random numbers.
        let salt = RandomState::new().build_hasher().finish().to_ne_bytes()[..4].to_vec();
        let hashed = hash_md5_password(user, self.0.expose(), &salt);
        Ok(Password::new(Some(salt), hashed.into_bytes()))
    }
}
