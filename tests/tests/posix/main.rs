//! POSIX, rule by rule. The model finds what nobody thought of; these tables say what is meant.

mod attributes;
mod content;
mod full;
mod names;
mod permission;
mod rename;
mod space;
