//! `bn` as people, scripts and CI servers call it. One program for all of these tests: it links once, and what takes long runs
//! beside the rest.

mod commands;
mod compile;
mod run;
mod same_bits;
mod shader_and_plan;
