//! The head of a board on flash in memory.
