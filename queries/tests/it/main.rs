//! Derived streams against DataFusion: at every tick, whatever came and went, a view holds what a batch query over its
//! inputs would answer. Catches: a retraction that does not find its row, state that depends on the order of arrival or
//! on the number of workers, a rule of the optimiser that does not hold for changing input, nulls and ties.

mod compare;
mod declared;
mod events;
mod found;
mod generate;
mod geofences;
mod harness;
mod incremental;
mod journeys;
mod mutated;
mod oracle;
mod readers;
mod sets;
mod trials;
mod usage;
mod windows;
