//! Listeners of the kind `forward`, with real servers behind them.

mod checks;
mod choice;
mod farm;
mod operators;
mod relay;
