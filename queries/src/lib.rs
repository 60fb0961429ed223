//! Questions in SQL: DataFusion lives here and nowhere else.

pub mod answer;
pub mod catalog;
pub mod history;
pub mod live;
pub mod plan;
pub mod render;
pub mod metrics;
mod question;
pub mod reads;

pub use answer::Answer;
pub use history::History;
pub use question::is_guarded;
pub use reads::Reads;
