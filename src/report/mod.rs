//! From measured rows to tables and figures, with the papers' numbers beside them.

mod canvas;
mod draw;
pub mod figure;
#[cfg(test)]
mod figure_tests;
mod file;
pub mod notebook;
pub mod published;
pub mod row;
#[cfg(test)]
mod sample;
pub mod table;

pub use figure::{Bars, GroupBy, Layout, Pick, SeriesBy, Style, grouped_bars};
pub use notebook::{Html, Markdown, Svg};
pub use published::{Cell, published};
pub use row::{Row, Summary, paired_difference, summarise};
pub use table::{Heading, Key, Pivot};
