//! A table of the catalogue, column by column.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_pg::datatypes::PG_OID_ALIAS_KEY;
use datafusion::arrow::array::{ArrayRef, BooleanArray, Int32Array, StringArray, new_null_array};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::arrow::record_batch::{RecordBatch, RecordBatchOptions};

/// Columns of the same number of rows.
pub struct Rows {
    count: usize,
    fields: Vec<Field>,
    columns: Vec<ArrayRef>,
}

impl Rows {
    /// None yet, of so many rows.
    pub fn of(count: usize) -> Rows {
        Rows { count, fields: Vec::new(), columns: Vec::new() }
    }

    /// The table.
    pub fn batch(self) -> RecordBatch {
        let options = RecordBatchOptions::new().with_row_count(Some(self.count));
        RecordBatch::try_new_with_options(Arc::new(Schema::new(self.fields)), self.columns, &options)
            .expect("every column was made with so many rows")
    }

    fn column(mut self, name: &str, values: ArrayRef) -> Rows {
        let mut field = Field::new(name, values.data_type().clone(), true);
        if name == "oid" {
            // So a client learns that it is no mere number.
            field.set_metadata(HashMap::from([(PG_OID_ALIAS_KEY.to_owned(), "oid".to_owned())]));
        }
        self.fields.push(field);
        self.columns.push(values);
        self
    }

    pub fn numbers(self, name: &str, values: &[i32]) -> Rows {
        self.column(name, Arc::new(Int32Array::from(values.to_vec())))
    }

    pub fn same_number(self, name: &str, value: i32) -> Rows {
        let values = Int32Array::from(vec![value; self.count]);
        self.column(name, Arc::new(values))
    }

    pub fn texts(self, name: &str, values: &[&str]) -> Rows {
        self.column(name, Arc::new(StringArray::from(values.to_vec())))
    }

    pub fn same_text(self, name: &str, value: &str) -> Rows {
        let values = StringArray::from(vec![value; self.count]);
        self.column(name, Arc::new(values))
    }

    pub fn no_text(self, name: &str) -> Rows {
        let values = new_null_array(&DataType::Utf8, self.count);
        self.column(name, values)
    }

    pub fn no_texts(self, name: &str) -> Rows {
        let values = new_null_array(&DataType::new_list(DataType::Utf8, true), self.count);
        self.column(name, values)
    }

    pub fn flags(self, name: &str, values: &[bool]) -> Rows {
        self.column(name, Arc::new(BooleanArray::from(values.to_vec())))
    }

    pub fn same_flag(self, name: &str, value: bool) -> Rows {
        let values = BooleanArray::from(vec![value; self.count]);
        self.column(name, Arc::new(values))
    }
}
