//! Development only: the .wast runner, golden files and oracles.
