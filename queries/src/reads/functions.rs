//! Postgres' functions that its clients call when they ask what there is. Most have one answer here.
//!
//! Invariant: none reads anything but its arguments and the list of relations.

use std::sync::Arc;

use datafusion::arrow::array::{Array as _, ArrayRef, AsArray as _, StringArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Int32Type};
use datafusion::common::{Result, ScalarValue};
use datafusion::execution::context::SessionContext;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

use super::directory::{CATALOG, Directory};
use super::pg_catalog::{OWNER, format_type};
use super::{PUBLIC, SYSTEM, wire};

/// Functions that are true, whatever they are asked.
const TRUE: [&str; 8] = [
    "pg_table_is_visible",
    "pg_type_is_visible",
    "pg_function_is_visible",
    "has_table_privilege",
    "has_schema_privilege",
    "has_database_privilege",
    "has_column_privilege",
    "has_any_column_privilege",
];
/// Functions of what we have none of.
const NULL: [&str; 14] = [
    "pg_get_expr",
    "pg_get_constraintdef",
    "pg_get_indexdef",
    "pg_get_viewdef",
    "pg_get_ruledef",
    "pg_get_triggerdef",
    "pg_get_partkeydef",
    "pg_get_function_result",
    "pg_get_function_arguments",
    "pg_get_serial_sequence",
    "pg_get_statisticsobjdef_columns",
    "obj_description",
    "col_description",
    "shobj_description",
];

/// Makes them known to the session.
pub fn register(context: &SessionContext, directory: &Directory) {
    let constant = |name: &str, value: ScalarValue| {
        context.register_udf(ScalarUDF::from(Constant { name: name.to_owned(), value, signature: any() }));
    };
    crate::functions::functions().into_iter().for_each(|function| context.register_udf(function));
    TRUE.iter().for_each(|name| constant(name, ScalarValue::from(true)));
    NULL.iter().for_each(|name| constant(name, ScalarValue::Utf8(None)));
    for no in ["pg_relation_is_publishable", "pg_is_in_recovery"] {
        constant(no, ScalarValue::from(false));
    }
    for owner in ["pg_get_userbyid", "current_user", "session_user", "user", "current_role"] {
        constant(owner, ScalarValue::from(OWNER));
    }
    constant("current_schema", ScalarValue::from(PUBLIC));
    constant("current_database", ScalarValue::from(CATALOG));
    constant("current_catalog", ScalarValue::from(CATALOG));
    constant("version", ScalarValue::from(wire::version()));
    constant("pg_encoding_to_char", ScalarValue::from("UTF8"));
    for zero in ["pg_backend_pid", "pg_relation_size", "pg_total_relation_size", "pg_table_size"] {
        constant(zero, ScalarValue::from(0_i64));
    }
    let schemas = [PUBLIC, SYSTEM].map(ScalarValue::from);
    constant("current_schemas", ScalarValue::List(ScalarValue::new_list(&schemas, &DataType::Utf8, true)));
    let names: Vec<(i32, String)> =
        directory.numbered().filter_map(|(number, _)| Some((number, directory.name_of(number)?))).collect();
    let regclass = move |number: i32| {
        let at = names.binary_search_by_key(&number, |(number, _)| *number);
        at.map_or_else(|_| number.to_string(), |at| names[at].1.clone())
    };
    let of_number = |name: &'static str, text: Arc<dyn Fn(i32) -> String + Send + Sync>| {
        context.register_udf(ScalarUDF::from(OfNumber { name, text: Same(text), signature: any() }));
    };
    of_number("regclass_name", Arc::new(regclass));
    of_number("regtype_name", Arc::new(format_type));
    of_number("format_type", Arc::new(format_type));
    context.register_udf(ScalarUDF::from(QuoteIdent { signature: any() }));
}

fn any() -> Signature {
    Signature::one_of(
        vec![datafusion::logical_expr::TypeSignature::VariadicAny, datafusion::logical_expr::TypeSignature::Nullary],
        Volatility::Stable,
    )
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Constant {
    name: String,
    value: ScalarValue,
    signature: Signature,
}

impl ScalarUDFImpl for Constant {
    fn name(&self) -> &str {
        &self.name
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.value.data_type())
    }
    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        Ok(ColumnarValue::Scalar(self.value.clone()))
    }
}

/// One and the same function; another is another.
#[derive(Clone)]
struct Same(Arc<dyn Fn(i32) -> String + Send + Sync>);

impl std::fmt::Debug for Same {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Same")
    }
}
impl PartialEq for Same {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}
impl Eq for Same {}
impl std::hash::Hash for Same {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).cast::<()>().hash(state);
    }
}

/// A text for the number that is the first argument; the others do not matter.
#[derive(Debug, PartialEq, Eq, Hash)]
struct OfNumber {
    name: &'static str,
    text: Same,
    signature: Signature,
}

impl ScalarUDFImpl for OfNumber {
    fn name(&self) -> &str {
        self.name
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let numbers = first(&args, &DataType::Int32)?;
        let texts = numbers.as_primitive::<Int32Type>().iter().map(|number| number.map(|number| (self.text.0)(number)));
        Ok(ColumnarValue::Array(Arc::new(texts.collect::<StringArray>())))
    }
}

/// A name as it has to be written in SQL.
#[derive(Debug, PartialEq, Eq, Hash)]
struct QuoteIdent {
    signature: Signature,
}

impl ScalarUDFImpl for QuoteIdent {
    fn name(&self) -> &str {
        "quote_ident"
    }
    fn signature(&self) -> &Signature {
        &self.signature
    }
    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let texts = first(&args, &DataType::Utf8)?;
        let quoted = texts.as_string::<i32>().iter().map(|text| text.map(quoted));
        Ok(ColumnarValue::Array(Arc::new(quoted.collect::<StringArray>())))
    }
}

fn quoted(name: &str) -> String {
    let plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

/// The first argument, as this type; null for what cannot be one, and where there is none.
fn first(args: &ScalarFunctionArgs, wanted: &DataType) -> Result<ArrayRef> {
    let Some(first) = args.args.first() else {
        return Ok(datafusion::arrow::array::new_null_array(wanted, args.number_rows));
    };
    let values = first.clone().into_array(args.number_rows)?;
    debug_assert_eq!(values.len(), args.number_rows);
    Ok(cast(&values, wanted)?)
}
