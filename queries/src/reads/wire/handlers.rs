//! Answers what a client says, in the simple and in the extended way.
//!
//! Invariant: what a connection holds is bounded: statements, portals, and the rows of one message's answers together.

use std::collections::HashSet;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use futures_util::{Sink, SinkExt as _};
use operators::error::Refusal;
use pgwire::api::portal::{Format, Portal};
use pgwire::api::query::{ExtendedQueryHandler, SimpleQueryHandler};
use pgwire::api::results::{FieldInfo, Response, Tag};
use pgwire::api::stmt::QueryParser;
use pgwire::api::store::PortalStore;
use pgwire::api::{ClientInfo, ClientPortalStore, Type};
use pgwire::error::{ErrorInfo, PgWireError, PgWireResult};
use pgwire::messages::PgWireBackendMessage;
use pgwire::messages::extendedquery::{
    Bind, BindComplete, Close, CloseComplete, Execute, Parse, ParseComplete, Sync as Synchronize,
    TARGET_TYPE_BYTE_PORTAL, TARGET_TYPE_BYTE_STATEMENT,
};
use pgwire::messages::response::{NoticeResponse, ReadyForQuery, TransactionStatus};

use super::said::{self, Said};
use super::startup::Seen;
use super::{faults, parameters, values};
use crate::metrics::Interface;
use crate::question::bytes_of;
use crate::reads::{Reads, Told};

/// Statements that a connection may have prepared under names, and portals.
const NAMED_MAX: usize = 256;

/// Answers for one connection.
pub struct Handlers {
    seen: Seen,
    parser: Arc<Parser>,
    /// Names of prepared statements and portals.
    named: Mutex<HashSet<(u8, String)>>,
}

/// A prepared statement.
#[derive(Clone, Debug)]
pub struct Prepared {
    sql: Arc<str>,
    said: Said,
    schema: SchemaRef,
    names: Vec<String>,
    /// Of the parameters.
    types: Vec<Type>,
}

impl Default for Prepared {
    fn default() -> Self {
        let schema = Arc::new(Schema::empty());
        Prepared { sql: "".into(), said: Said::Nothing(""), schema, names: Vec::new(), types: Vec::new() }
    }
}

impl Handlers {
    /// Answers with what the client sees.
    pub fn new(seen: Seen) -> Handlers {
        Handlers { parser: Arc::new(Parser(seen.clone())), seen, named: Mutex::default() }
    }

    /// Remembers a name; refuses more than may be.
    fn name(&self, kind: u8, name: Option<&String>) -> PgWireResult<()> {
        let Some(name) = name else { return Ok(()) };
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (kind, name.clone());
        if !named.contains(&key) && named.len() >= NAMED_MAX {
            let message = format!("{NAMED_MAX} statements and portals are open");
            return Err(faults::fault(&Refusal::new("sql_too_many", message).hint("close those not needed"), ""));
        }
        named.insert(key);
        Ok(())
    }

    fn forget(&self, forgotten: impl Fn(&(u8, String)) -> bool) {
        self.named.lock().unwrap_or_else(PoisonError::into_inner).retain(|name| !forgotten(name));
    }
}

/// What the client sees.
fn reads(seen: &Seen) -> PgWireResult<&Arc<Reads>> {
    let unknown = || Refusal::new("access_denied", "nobody has shown who this is");
    seen.get().ok_or_else(|| faults::fault(&unknown(), ""))
}

/// The answer to a phrase.
fn phrase(said: &Said) -> Response {
    match said {
        Said::Question(_) => Response::EmptyQuery,
        Said::Show(name, value) => Response::Query(values::one_text(name, value)),
        Said::Begin => Response::TransactionStart(Tag::new("BEGIN")),
        Said::End(word) => Response::TransactionEnd(Tag::new(word)),
        Said::Nothing(tag) => Response::Execution(Tag::new(tag)),
    }
}

/// Tells a client that it did not get all rows.
async fn warn<C>(client: &mut C, rows: usize) -> PgWireResult<()>
where
    C: Sink<PgWireBackendMessage> + Unpin + Send + Sync,
    PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
{
    let message = format!("only the first {rows} rows: raise reads.rows_max, or ask for fewer with LIMIT");
    let info = ErrorInfo::new("WARNING".to_owned(), "01004".to_owned(), message);
    client.feed(PgWireBackendMessage::NoticeResponse(NoticeResponse::from(info))).await?;
    Ok(())
}

#[async_trait]
impl SimpleQueryHandler for Handlers {
    async fn do_query<C>(&self, client: &mut C, sql: &str) -> PgWireResult<Vec<Response>>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let said = said::read(sql).map_err(|why| faults::fault(&why, sql))?;
        if said.is_empty() {
            return Ok(vec![Response::EmptyQuery]);
        }
        let reads = reads(&self.seen)?;
        let bytes_max = reads.options.question.memory_bytes_max;
        let (mut responses, mut bytes) = (Vec::new(), 0);
        for one in said {
            let Said::Question(statement) = one else {
                responses.push(phrase(&one));
                continue;
            };
            let told = reads.ask(*statement, Vec::new(), Interface::Postgres).await;
            let response = told.and_then(|Told { answer, names }| {
                bytes += answer.batches.iter().map(bytes_of).sum::<usize>();
                if bytes > bytes_max {
                    let message = format!("the answers are together larger than {bytes_max} bytes");
                    return Err(Refusal::new("sql_resource_exceeded", message).hint("ask one question at a time"));
                }
                let columns = values::columns(&answer.schema, &names, &Format::UnifiedText)?;
                let truncated = answer.truncated.then(|| answer.rows());
                Ok((truncated, values::rows(answer, columns)?))
            });
            match response {
                Ok((truncated, rows)) => {
                    if let Some(rows) = truncated {
                        warn(client, rows).await?;
                    }
                    responses.push(Response::Query(rows));
                }
                Err(why) => {
                    // What came before it is answered, what comes after is not done.
                    responses.push(Response::Error(Box::new(faults::info(&why, sql))));
                    break;
                }
            }
        }
        Ok(responses)
    }
}

#[async_trait]
impl ExtendedQueryHandler for Handlers {
    type Statement = Prepared;
    type QueryParser = Parser;

    fn query_parser(&self) -> Arc<Parser> {
        self.parser.clone()
    }

    async fn on_parse<C>(&self, client: &mut C, message: Parse) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Prepared>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        self.name(TARGET_TYPE_BYTE_STATEMENT, message.name.as_ref())?;
        let stored = pgwire::api::stmt::StoredStatement::parse(client, &message, self.query_parser()).await?;
        let name = message.name.as_deref().unwrap_or(pgwire::api::DEFAULT_NAME);
        match stored {
            Some(stored) => client.portal_store().put_statement(Arc::new(stored)),
            None => client.portal_store().put_empty_statement(name),
        }
        client.feed(PgWireBackendMessage::ParseComplete(ParseComplete::new())).await?;
        Ok(())
    }

    async fn on_bind<C>(&self, client: &mut C, message: Bind) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Prepared>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        use pgwire::api::store::Entry;
        self.name(TARGET_TYPE_BYTE_PORTAL, message.portal_name.as_ref())?;
        let statement = message.statement_name.as_deref().unwrap_or(pgwire::api::DEFAULT_NAME);
        match client.portal_store().get_statement(statement) {
            Some(Entry::Value(stored)) => {
                client.portal_store().put_portal(Arc::new(Portal::try_new(&message, stored)?));
            }
            Some(Entry::Empty) => {
                let portal = message.portal_name.as_deref().unwrap_or(pgwire::api::DEFAULT_NAME);
                client.portal_store().put_empty_portal(portal);
            }
            None => return Err(PgWireError::StatementNotFound(statement.to_owned())),
        }
        client.feed(PgWireBackendMessage::BindComplete(BindComplete::new())).await?;
        Ok(())
    }

    async fn on_execute<C>(&self, client: &mut C, mut message: Execute) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Prepared>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        // Room is made for so many rows at once. More than an answer can have is the same as all; so is less than none.
        let rows_max = reads(&self.seen)?.options.question.rows_max;
        if usize::try_from(message.max_rows).is_ok_and(|rows| rows <= rows_max) {
            return self._on_execute(client, message).await;
        }
        message.max_rows = 0;
        self._on_execute(client, message).await
    }

    async fn on_sync<C>(&self, client: &mut C, _: Synchronize) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Prepared>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        client.portal_store().rm_portal(pgwire::api::DEFAULT_NAME);
        // Portals end with their transaction; outside of one, that is here.
        if client.transaction_status() == TransactionStatus::Idle {
            client.portal_store().clear_portals();
            self.forget(|(kind, _)| *kind == TARGET_TYPE_BYTE_PORTAL);
        }
        let ready = ReadyForQuery::new(client.transaction_status());
        client.send(PgWireBackendMessage::ReadyForQuery(ready)).await?;
        Ok(())
    }

    async fn on_close<C>(&self, client: &mut C, message: Close) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Prepared>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let name = message.name.as_deref().unwrap_or(pgwire::api::DEFAULT_NAME);
        match message.target_type {
            TARGET_TYPE_BYTE_STATEMENT => client.portal_store().rm_statement(name),
            _ => client.portal_store().rm_portal(name),
        }
        self.forget(|(kind, known)| *kind == message.target_type && known == name);
        client.feed(PgWireBackendMessage::CloseComplete(CloseComplete::new())).await?;
        Ok(())
    }

    async fn do_query<C>(&self, client: &mut C, portal: &Portal<Prepared>, _: usize) -> PgWireResult<Response>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Prepared>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let prepared = &portal.statement.statement;
        let refuse = |why: Refusal| faults::fault(&why, &prepared.sql);
        let Said::Question(statement) = &prepared.said else { return Ok(phrase(&prepared.said)) };
        let given =
            parameters::values(&portal.parameters, &portal.parameter_format, &prepared.types).map_err(refuse)?;
        let reads = reads(&self.seen)?;
        let told = reads.ask(statement.as_ref().clone(), given, Interface::Postgres).await.map_err(refuse)?;
        if !same_columns(&told.answer.schema, &prepared.schema) {
            let message = "the columns have changed since the statement was prepared";
            return Err(refuse(Refusal::new("sql_invalid", message).hint("prepare it again")));
        }
        let columns =
            values::columns(&prepared.schema, &prepared.names, &portal.result_column_format).map_err(refuse)?;
        if told.answer.truncated {
            warn(client, told.answer.rows()).await?;
        }
        Ok(Response::Query(values::rows(told.answer, columns).map_err(refuse)?))
    }
}

fn same_columns(one: &Schema, other: &Schema) -> bool {
    let types = |schema: &Schema| schema.fields().iter().map(|field| field.data_type().clone()).collect::<Vec<_>>();
    types(one) == types(other)
}

/// Prepares statements.
pub struct Parser(Seen);

#[async_trait]
impl QueryParser for Parser {
    type Statement = Prepared;

    async fn parse_sql<C>(&self, _: &C, sql: &str, types: &[Option<Type>]) -> PgWireResult<Option<Prepared>>
    where
        C: ClientInfo + Unpin + Send + Sync,
    {
        let refuse = |why: Refusal| faults::fault(&why, sql);
        let mut said = said::read(sql).map_err(refuse)?;
        let Some(said) = said.pop().filter(|_| said.is_empty()) else {
            if sql.trim().is_empty() || said.is_empty() {
                return Ok(None);
            }
            return Err(refuse(Refusal::new("sql_syntax", "there is more than one statement in the text")));
        };
        let mut prepared = Prepared { sql: sql.into(), ..Prepared::default() };
        match &said {
            Said::Question(statement) => {
                let described = reads(&self.0)?.describe(statement.as_ref().clone()).await.map_err(refuse)?;
                (prepared.schema, prepared.names) = (described.schema, described.names);
                let count = described.parameters.len().max(types.len());
                let asked = |n: usize| described.parameters.get(n).and_then(Option::as_ref);
                let told = |n: usize| types.get(n).cloned().flatten().filter(|kind| *kind != Type::UNKNOWN);
                prepared.types =
                    (0..count).map(|n| told(n).unwrap_or_else(|| parameters::type_for(asked(n)))).collect();
            }
            Said::Show(name, _) => {
                let column = datafusion::arrow::datatypes::DataType::Utf8;
                let column = datafusion::arrow::datatypes::Field::new(name, column, true);
                prepared.schema = Arc::new(Schema::new(vec![column]));
                prepared.names = vec![name.clone()];
            }
            _ => {}
        }
        prepared.said = said;
        Ok(Some(prepared))
    }

    fn get_parameter_types(&self, prepared: &Prepared) -> PgWireResult<Vec<Type>> {
        Ok(prepared.types.clone())
    }

    fn get_result_schema(&self, prepared: &Prepared, format: Option<&Format>) -> PgWireResult<Vec<FieldInfo>> {
        let format = format.unwrap_or(&Format::UnifiedText);
        values::columns(&prepared.schema, &prepared.names, format).map_err(|why| faults::fault(&why, &prepared.sql))
    }
}
