//! Lowers a quantized graph to a program that a board runs in place.
//!
//! An importer reads TFLite or ONNX into a [`graph::Graph`]; rewrites that keep every output bit
//! make it smaller; the planner gives each tensor its place in the arena; the emitter lays weights
//! out for the target's kernels and writes the program.

pub mod graph;
pub mod onnx;
