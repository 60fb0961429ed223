//! Questions in SQL: DataFusion lives here and nowhere else.

pub mod answer;
pub mod catalog;
pub mod functions;
pub mod history;
pub mod live;
pub mod metrics;
pub mod plan;
mod question;
pub mod readers;
pub mod reads;
pub mod render;
pub mod trial;

pub use answer::Answer;
pub use history::History;
pub use question::is_guarded;
pub use reads::Reads;
