//! Tests of the whole tier, from text to compiled functions.
