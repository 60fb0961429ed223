//! Makes of Postgres' SQL, as its clients write it, what DataFusion plans; and tells without planning when a question to the
//! catalogue has no row.
//!
//! Clients learn what there is from `pg_catalog`, in SQL that leans on Postgres' operators, casts and some sixty tables. Of these
//! we have those that say something about relations; the others have no rows, so that neither has what is joined to them.
//!
//! Invariant: what a question to relations means is not changed, but for writing Postgres' types and functions by their plain
//! names.

use std::ops::ControlFlow;

use datafusion::common::TableReference;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    ArrayElemTypeDef, BinaryOperator, CastKind, DataType, ExactNumberInfo, Expr, Function, FunctionArg,
    FunctionArgExpr, FunctionArgumentList, FunctionArguments, Ident, JoinOperator, ObjectName, ObjectNamePart, Query,
    Select, SelectItem, SetExpr, SetOperator, Statement as Sql, TableFactor, TableWithJoins, Value, Visit, VisitMut,
    Visitor, VisitorMut, visit_relations,
};
use operators::error::Refusal;

use super::directory::Directory;
use super::pg_catalog::{self, NAMESPACE};

/// A query as it is planned.
pub struct Translated {
    pub statement: Statement,
    /// What Postgres would call the columns, where that can be told from the text.
    pub names: Option<Vec<String>>,
    /// Whether there is no row for certain, and nothing need be planned.
    pub nothing: bool,
}

/// Translates one query.
pub fn translate(statement: Statement, directory: &Directory) -> Result<Translated, Refusal> {
    let Statement::Statement(mut sql) = statement else {
        return Err(Refusal::new("sql_syntax", "the text is not a query"));
    };
    let (mut names, mut nothing) = (None, false);
    if let Sql::Query(query) = sql.as_ref() {
        names = column_names(&query.body);
        // Of columns that are not listed we do not know the names.
        nothing = names.is_some() && query.with.is_none() && is_nothing(&query.body, directory);
    }
    if !nothing {
        // Nothing breaks off the walk.
        let _: ControlFlow<()> = VisitMut::visit(&mut *sql, &mut Translator { directory });
    }
    Ok(Translated { statement: Statement::Statement(sql), names, nothing })
}

struct Translator<'a> {
    directory: &'a Directory,
}

impl VisitorMut for Translator<'_> {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        // Before the walk goes into it: what is in there may be beyond DataFusion.
        let replaced = match expr {
            Expr::Subquery(query) if is_nothing(&query.body, self.directory) => Some(null_text()),
            Expr::Exists { subquery, negated } if is_nothing(&subquery.body, self.directory) => Some(flag(*negated)),
            Expr::InSubquery { subquery, negated, .. } if is_nothing(&subquery.body, self.directory) => {
                Some(flag(*negated))
            }
            // ARRAY(SELECT …) is not known to DataFusion. What the catalogue would have in it, we have not.
            Expr::Function(Function { args: FunctionArguments::Subquery(query), name, .. })
                if plain(name) == "array" && !self.reads_relations(query) =>
            {
                Some(no_texts())
            }
            _ => None,
        };
        if let Some(replaced) = replaced {
            *expr = replaced;
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        match expr {
            Expr::Collate { expr: inner, .. } => *expr = take(inner),
            Expr::BinaryOp { op, .. } => {
                if let BinaryOperator::PGCustomBinaryOperator(parts) = op
                    && let Some(known) = parts.last().and_then(|sign| operator(sign))
                {
                    *op = known;
                }
            }
            Expr::Function(function) => strip(&mut function.name),
            Expr::Cast { .. } => self.cast(expr),
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

impl Translator<'_> {
    /// Whether the query reads a relation, and not only the catalogue.
    fn reads_relations(&self, query: &Query) -> bool {
        let relation = |name: &ObjectName| match self.directory.find(&TableReference::parse_str(&name.to_string())) {
            Some(_) => ControlFlow::Break(()),
            None => ControlFlow::Continue(()),
        };
        visit_relations(query, relation).is_break()
    }

    fn cast(&self, cast: &mut Expr) {
        let Expr::Cast { expr, data_type, .. } = cast else { return };
        let name = match data_type {
            DataType::Custom(name, _) => plain(name),
            DataType::Regclass => "regclass".to_owned(),
            _ => return,
        };
        let kind = name.trim_matches('"');
        match kind {
            "regclass" => {
                *cast = match text_of(expr) {
                    // A number as text is what psql writes.
                    Some(text) if text.parse::<i32>().is_ok() => number(text.parse().expect("just parsed")),
                    Some(text) => self.directory.number_of(&text).map_or_else(null_text, number),
                    None => call("regclass_name", take(expr)),
                }
            }
            "regtype" => *cast = call("regtype_name", take(expr)),
            "regnamespace" | "regproc" | "regprocedure" | "regrole" | "regoper" | "regconfig" => {
                *data_type = DataType::Text;
            }
            _ => {
                if let Some(known) = built_in(kind) {
                    *data_type = known;
                }
            }
        }
    }
}

/// Postgres' own names of types that DataFusion knows by others.
fn built_in(name: &str) -> Option<DataType> {
    Some(match name {
        "text" | "name" | "char" | "bpchar" | "varchar" | "cstring" | "unknown" | "json" | "jsonb" | "uuid" => {
            DataType::Text
        }
        "int2" => DataType::SmallInt(None),
        "int4" | "oid" | "xid" => DataType::Int(None),
        "int8" => DataType::BigInt(None),
        "float4" => DataType::Real,
        "float8" => DataType::Double(ExactNumberInfo::None),
        "bool" => DataType::Boolean,
        _ => return None,
    })
}

fn operator(sign: &str) -> Option<BinaryOperator> {
    Some(match sign {
        "~" => BinaryOperator::PGRegexMatch,
        "~*" => BinaryOperator::PGRegexIMatch,
        "!~" => BinaryOperator::PGRegexNotMatch,
        "!~*" => BinaryOperator::PGRegexNotIMatch,
        "~~" => BinaryOperator::PGLikeMatch,
        "~~*" => BinaryOperator::PGILikeMatch,
        "=" => BinaryOperator::Eq,
        "<>" | "!=" => BinaryOperator::NotEq,
        "<" => BinaryOperator::Lt,
        "<=" => BinaryOperator::LtEq,
        ">" => BinaryOperator::Gt,
        ">=" => BinaryOperator::GtEq,
        "+" => BinaryOperator::Plus,
        "-" => BinaryOperator::Minus,
        "*" => BinaryOperator::Multiply,
        "/" => BinaryOperator::Divide,
        "||" => BinaryOperator::StringConcat,
        _ => return None,
    })
}

/// Whether the query has no row for certain, because it reads a table of the catalogue that has none.
fn is_nothing(body: &SetExpr, directory: &Directory) -> bool {
    match body {
        SetExpr::Select(select) => {
            !has_aggregate(select) && select.from.iter().any(|from| from_nothing(from, directory))
        }
        SetExpr::Query(query) => query.with.is_none() && is_nothing(&query.body, directory),
        SetExpr::SetOperation { left, op: SetOperator::Union, right, .. } => {
            is_nothing(left, directory) && is_nothing(right, directory)
        }
        SetExpr::SetOperation { left, .. } => is_nothing(left, directory),
        _ => false,
    }
}

fn from_nothing(from: &TableWithJoins, directory: &Directory) -> bool {
    let mut nothing = factor_nothing(&from.relation, directory);
    for join in &from.joins {
        let right = factor_nothing(&join.relation, directory);
        nothing = match &join.join_operator {
            JoinOperator::Join(_) | JoinOperator::Inner(_) | JoinOperator::CrossJoin(_) => nothing || right,
            JoinOperator::Left(_) | JoinOperator::LeftOuter(_) => nothing,
            JoinOperator::Right(_) | JoinOperator::RightOuter(_) => right,
            _ => nothing && right,
        };
    }
    nothing
}

fn factor_nothing(factor: &TableFactor, directory: &Directory) -> bool {
    match factor {
        TableFactor::Table { name, args: None, .. } => {
            let parts: Vec<String> = name.0.iter().filter_map(ObjectNamePart::as_ident).map(lower).collect();
            match parts.as_slice() {
                [table] => {
                    let ours = directory.relations().any(|relation| relation.name.name == *table);
                    table.starts_with("pg_") && !ours && !pg_catalog::has_rows(table)
                }
                [.., schema, table] => schema == NAMESPACE && !pg_catalog::has_rows(table),
                [] => false,
            }
        }
        TableFactor::Derived { subquery, .. } => is_nothing(&subquery.body, directory),
        TableFactor::NestedJoin { table_with_joins, .. } => from_nothing(table_with_joins, directory),
        _ => false,
    }
}

/// Whether the list calls an aggregate, which has a row even of nothing.
fn has_aggregate(select: &Select) -> bool {
    select.projection.iter().any(|item| Visit::visit(item, &mut Aggregates { depth: 0 }).is_break())
}

/// Finds aggregates, but not those of queries inside.
struct Aggregates {
    depth: usize,
}

const AGGREGATES: [&str; 9] = ["count", "sum", "min", "max", "avg", "array_agg", "string_agg", "bool_and", "bool_or"];

impl Visitor for Aggregates {
    type Break = ();

    fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        self.depth += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        match expr {
            Expr::Function(function) if self.depth == 0 && AGGREGATES.contains(&plain(&function.name).as_str()) => {
                ControlFlow::Break(())
            }
            _ => ControlFlow::Continue(()),
        }
    }
}

/// What Postgres calls the columns of a query; none if a wildcard is among them.
fn column_names(body: &SetExpr) -> Option<Vec<String>> {
    match body {
        SetExpr::Select(select) => select.projection.iter().map(column_name).collect(),
        SetExpr::Query(query) => column_names(&query.body),
        SetExpr::SetOperation { left, .. } => column_names(left),
        _ => None,
    }
}

fn column_name(item: &SelectItem) -> Option<String> {
    match item {
        SelectItem::UnnamedExpr(expr) => Some(expression_name(expr)),
        SelectItem::ExprWithAlias { alias, .. } => Some(written(alias)),
        _ => None,
    }
}

fn expression_name(expr: &Expr) -> String {
    match expr {
        Expr::Identifier(ident) => written(ident),
        Expr::CompoundIdentifier(parts) => parts.last().map(written).unwrap_or_default(),
        Expr::Function(function) => plain(&function.name),
        Expr::Cast { expr, data_type, .. } => match expression_name(expr) {
            unnamed if unnamed == "?column?" => data_type.to_string().to_lowercase(),
            named => named,
        },
        Expr::Nested(expr) | Expr::Collate { expr, .. } => expression_name(expr),
        Expr::Case { .. } => "case".to_owned(),
        Expr::Extract { .. } => "extract".to_owned(),
        Expr::Substring { .. } => "substring".to_owned(),
        Expr::Exists { .. } => "exists".to_owned(),
        Expr::Subquery(query) => column_names(&query.body)
            .and_then(|names| names.into_iter().next())
            .unwrap_or_else(|| "?column?".to_owned()),
        _ => "?column?".to_owned(),
    }
}

/// The name as the parser's rule of lower case leaves it.
fn written(ident: &Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { lower(ident) }
}

fn lower(ident: &Ident) -> String {
    ident.value.to_lowercase()
}

/// The last part of the name, in lower case.
fn plain(name: &ObjectName) -> String {
    name.0.last().and_then(ObjectNamePart::as_ident).map(lower).unwrap_or_default()
}

/// Takes `pg_catalog.` from the front of the name.
fn strip(name: &mut ObjectName) {
    if name.0.len() == 2 && name.0[0].as_ident().is_some_and(|ident| lower(ident) == NAMESPACE) {
        name.0.remove(0);
    }
}

fn take(expr: &mut Expr) -> Expr {
    std::mem::replace(expr, Expr::value(Value::Null))
}

fn text_of(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) => Some(text.clone()),
            _ => None,
        },
        _ => None,
    }
}

fn number(value: i32) -> Expr {
    cast(Expr::value(Value::Number(value.to_string(), false)), DataType::Int(None))
}

fn null_text() -> Expr {
    cast(Expr::value(Value::Null), DataType::Text)
}

fn no_texts() -> Expr {
    cast(Expr::value(Value::Null), DataType::Array(ArrayElemTypeDef::SquareBracket(Box::new(DataType::Text), None)))
}

fn flag(value: bool) -> Expr {
    Expr::value(Value::Boolean(value))
}

fn cast(expr: Expr, data_type: DataType) -> Expr {
    Expr::Cast { kind: CastKind::Cast, expr: Box::new(expr), data_type, array: false, format: None }
}

fn call(name: &str, argument: Expr) -> Expr {
    let argument = FunctionArg::Unnamed(FunctionArgExpr::Expr(argument));
    let list = FunctionArgumentList { duplicate_treatment: None, args: vec![argument], clauses: Vec::new() };
    Expr::Function(Function {
        name: ObjectName::from(Ident::new(name)),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(list),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}
