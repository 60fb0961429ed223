//! Pre-joins the reference tables into one: vehicle → driver → company → tariff, a row per vehicle. Any change of a reference
//! changes the rows of exactly those vehicles that it concerns; what is missing or dangling is null until it appears.

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::operator::Operator;

use crate::batch::Batch;
use crate::look_up_table::{LookUp, Shape, look_up_table};
use crate::newest::newest;
use crate::record::{Stream as Topic, output, registry};
use crate::time::Tick;

/// Raw changelogs of the reference tables, on any workers.
pub struct References<'s> {
    /// Columns of [`registry::schema`] of vehicles.
    pub vehicles: Stream<'s, Tick, Batch>,
    /// Of drivers.
    pub drivers: Stream<'s, Tick, Batch>,
    /// Of companies.
    pub companies: Stream<'s, Tick, Batch>,
    /// Of tariffs.
    pub tariffs: Stream<'s, Tick, Batch>,
}

/// The table `vehicle_links` (columns of [`output::links`]), spread by vehicle. When a vehicle changes its device, the row
/// with the old device is deleted before the new row appears, so that the table can be spread by device as well.
pub fn link<'s>(references: References<'s>) -> Stream<'s, Tick, Batch> {
    let companies = look_up_table(
        newest(references.companies, "company_id"),
        Shape {
            key: "company_id",
            keep: kept(Topic::Company, &["company_id", "name", "time_zone", "offline_after_s", "tariff_id"]),
            route: None,
        },
        vec![LookUp {
            changes: newest(references.tariffs, "tariff_id"),
            key: "tariff_id",
            by: "tariff_id",
            take: vec![text("name", "tariff_name")],
        }],
    );
    let joined = look_up_table(
        newest(references.vehicles, "vehicle_id"),
        Shape {
            key: "vehicle_id",
            keep: kept(
                Topic::Vehicle,
                &["vehicle_id", "device_id", "plate", "model", "group_ids", "company_id", "driver_id"],
            ),
            route: Some("device_id"),
        },
        vec![
            LookUp {
                changes: companies,
                key: "company_id",
                by: "company_id",
                take: vec![
                    text("name", "company_name"),
                    text("time_zone", "time_zone"),
                    ("offline_after_s", Field::new("offline_after_s", DataType::Int64, true)),
                    text("tariff_id", "tariff_id"),
                    text("tariff_name", "tariff_name"),
                ],
            },
            LookUp {
                changes: newest(references.drivers, "driver_id"),
                key: "driver_id",
                by: "driver_id",
                take: vec![text("name", "driver_name"), text("phone", "driver_phone")],
            },
        ],
    );
    joined.unary::<CapacityContainerBuilder<Batch>, _, _, _>(Pipeline, "ArrangeColumns", |_, _| {
        move |input, output| {
            input.for_each(|time, batch| {
                if let Some(rows) = batch.take() {
                    output.session(&time).give_container(&mut arranged(&rows).into());
                }
            });
        }
    })
}

fn text(name: &'static str, becomes: &str) -> (&'static str, Field) {
    (name, Field::new(becomes, DataType::Utf8View, true))
}

fn kept(table: Topic, names: &[&str]) -> Vec<Field> {
    let all = registry::fields(table);
    let find = |name: &&str| all.iter().find(|field| field.name() == name).expect("a field of the table").clone();
    names.iter().map(find).collect()
}

/// The columns in the order of the published schema.
fn arranged(rows: &RecordBatch) -> RecordBatch {
    let schema = output::links();
    let find =
        |field: &std::sync::Arc<Field>| rows.column_by_name(field.name()).expect("links have this column").clone();
    RecordBatch::try_new(schema.clone(), schema.fields().iter().map(find).collect()).expect("the declared columns")
}
